"""A child has no more epoll instances than its parent, and its children inherit none over exec()."""

import os

from unpatched import known_connection


def instances():
    inheritable = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if os.path.lexists(f"/proc/self/fd/{fd}") and "eventpoll" in os.readlink(f"/proc/self/fd/{fd}"):
            inheritable[fd] = os.get_inheritable(fd)
    return inheritable


connection = known_connection()
before = instances()
child = os.fork()
if child == 0:
    after = instances()
    os._exit(after.keys() > before.keys() or any(after.values()))
assert os.waitpid(child, 0)[1] == 0
