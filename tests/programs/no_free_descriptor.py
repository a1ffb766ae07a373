"""The reactor needs another epoll instance while no descriptor is free."""

import os
import resource

from unpatched import connect, query, sleep, spawn, wait

held, other = (connect() for _ in range(2))
wait(spawn(query, held))
wait(spawn(query, other))
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
task = spawn(query, other, "SELECT 9 FROM pg_sleep(0.3)", 1)
sleep(0.1)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
held.close()
assert wait(task) == 9
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.1)")) == 9
os.close(writing)
os.waitpid(child, 0)
print("answered")
