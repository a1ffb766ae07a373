"""A child that was forked during a dispatch of its parent's reactor waits in that dispatch."""

import os

from unpatched import connect, fork, query, renew, spawn, wait


def in_the_dispatch():
    query(connection, "SELECT pg_sleep(0.1)")
    child = fork()
    if child == 0:
        code = 1
        try:
            renew()
            assert query(given, "SELECT 3 FROM pg_sleep(0.01)") == 3
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    return query(connection, "SELECT 4 FROM pg_sleep(0.01)")


connection, given = (connect() for _ in range(2))
for known in (connection, given):
    wait(spawn(query, known))
print(wait(spawn(in_the_dispatch)))
