"""A child holds a connection that its parent has closed."""

import os

from support.tickers import sleep_takes
from unpatched import connect, query, sleep, spawn, wait

held, other = (connect() for _ in range(2))
pid = wait(spawn(query, held, "SELECT pg_backend_pid()"))
wait(spawn(query, other))
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
os.close(reading)
fd = held.fileno()
held.close()  # the server answers by closing its end
replacement = connect()
for _ in range(3):
    assert wait(spawn(query, replacement, "SELECT 8 FROM pg_sleep(0.02)")) == 8
assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.01)")) == 9
print(sleep_takes(sleep))
for connection in (other, replacement):
    assert wait(spawn(query, connection, "SELECT 9 FROM pg_sleep(0.01)")) == 9
os.close(writing)
os.waitpid(child, 0)
