"""A child calls the method argv[1] of a connection on which its parent waits; prints the outcomes."""

import os
import signal
import sys

import psycopg2
from unpatched import fork, known_connection, query, sleep, spawn, wait

connection = known_connection()


def ask():
    try:
        return query(connection, "SELECT 7 FROM pg_sleep(1)", 1)
    except psycopg2.InterfaceError:  # in the child
        return None


task = spawn(ask)
sleep(0.2)
child = fork()
if child == 0:
    signal.alarm(10)
    try:
        getattr(connection, sys.argv[1])()
        print("closed" if connection.closed else "open", flush=True)
    except psycopg2.Error as exc:
        print(type(exc).__name__, flush=True)
    os._exit(0)
assert os.waitpid(child, 0) == (child, 0)
assert wait(task) == 7
assert wait(spawn(query, connection, "SELECT 8")) == 8
