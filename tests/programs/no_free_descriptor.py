"""The reactor needs another epoll instance while no descriptor is free."""

import resource

from unpatched import held_by_a_child, known_connection, query, sleep, spawn, wait

held, other = known_connection(), known_connection()
# The child holds the closed connection, so epoll still reports it.
with held_by_a_child():
    task = spawn(query, other, "SELECT 9 FROM pg_sleep(0.3)", 1)
    sleep(0.1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    held.close()
    assert wait(task) == 9
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.1)")) == 9
print("answered")
