"""A child creates a reactor of its own during a dispatch of its parent's reactor."""

import gc
import os

import psycopg2
from unpatched import call_soon, known_connection, query, renew, spawn, wait


def end():
    print("ended", flush=True)
    os._exit(0)


class Done:
    def poll(self):
        return 0


def in_the_dispatch():
    query(connection, "SELECT pg_sleep(0.1)")
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    else:
        call_soon(end)
        renew()
        spawn(int)
        psycopg2.extensions.get_wait_callback()(Done())
        gc.collect()
        # Here the hub goes on with the dispatch that it was in.


connection = known_connection()
wait(spawn(in_the_dispatch))
