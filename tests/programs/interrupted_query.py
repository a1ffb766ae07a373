"""Executes its first argument and prints how an interrupt ended the query. With "busy", another greenlet runs."""

import sys

import psycopg2
from unpatched import DSN, sleep, spawn

query, busy = sys.argv[1], sys.argv[2:] == ["busy"]
connection = psycopg2.connect(DSN)


def tick():
    while True:
        sleep(0.01)


if busy:
    spawn(tick)
    sleep(0)
print("ready", flush=True)
try:
    connection.cursor().execute(query)
except KeyboardInterrupt:
    print("interrupted", connection.closed, flush=True)
