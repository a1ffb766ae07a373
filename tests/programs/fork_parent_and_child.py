"""A process forks while a greenlet is parked, and both go on with connections."""

import gc
import os

from unpatched import connect, fork, query, renew, sleep, spawn, wait

connections = [connect() for _ in range(5)]
for connection in connections:
    wait(spawn(query, connection))
parked = spawn(query, connections[0], "SELECT 7 FROM pg_sleep(0.5)", 1)
sleep(0.1)
child = fork()
if child == 0:
    code = 1
    try:
        renew()
        # A connection that only the child uses from now on, and then one that the parent still uses.
        assert wait(spawn(query, connections.pop(), "SELECT 3 FROM pg_sleep(0.01)")) == 3
        connection = None
        connections.pop()
        gc.collect()
        for _ in range(3):
            connection = connect()
            assert wait(spawn(query, connection, "SELECT 3 FROM pg_sleep(0.01)")) == 3
            connection.close()
            gc.collect()
        code = 0
    finally:
        os._exit(code)
connection = None
given = connections.pop()
assert wait(parked) == 7
for connection in connections:
    assert wait(spawn(query, connection, "SELECT 4 FROM pg_sleep(0.01)")) == 4
while True:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        break
    sleep(0.01)
for connection in connections:
    assert wait(spawn(query, connection, "SELECT 4 FROM pg_sleep(0.01)")) == 4
print("child", status)
