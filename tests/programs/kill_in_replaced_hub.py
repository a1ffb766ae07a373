"""A query that is parked in a hub that was replaced can be killed."""

import greenlet
from support.server_state import in_query
from unpatched import connect, make_psycopg_green, query, replace, sleep, spawn, wait


def parked():
    try:
        query(connection, "SELECT pg_sleep(0.3)", 1)
    except BaseException as exc:
        ended.append(exc)


ended, thrown = [], ValueError("killed")
make_psycopg_green(cancel=False)
connection, other = (connect() for _ in range(2))
for known in (connection, other):
    wait(spawn(query, known))
task = spawn(parked)
while not in_query(connection):
    sleep(0.01)
replace()
wait(spawn(query, other))
task.parent = greenlet.getcurrent()
greenlet.greenlet.throw(task, thrown)
assert ended == [thrown], ended
assert connection.closed
assert wait(spawn(query, other)) == 1
