"""Which process a wait belongs to.

A child process has copies of the greenlets that wait in its parent, and the hub
may wake them there. Their sockets are the parent's. So each wait notes the
number of the process in which it began, and looks at it whenever it goes on.
"""

import os
import sys
from typing import Any

from psycogreen import _waiters

# Counts the forks that led to this process. While a fork is under way it is
# negative: another library's at-fork handler may run in the child before ours, and
# then only the process id says which process this is.
count = 0
_pid = os.getpid()

# The copies that were woken. If the collector took them, their `finally` blocks would run.
_copies: list[Any] = []


def current() -> int:
    """Return the number of this process, also while a fork is under way."""
    if count >= 0:
        return count
    if os.getpid() != _pid:
        _after_in_child()
        return count
    return ~count


def is_copy(begun: int) -> bool:
    """Return whether the wait that began in process number *begun* belongs to another process."""
    return begun != current()


def disconnect(conn: Any) -> None:
    """Replace the socket of *conn*, which is the parent's, so that libpq closes another file.

    libpq would say goodbye to the server through it.
    """
    fd = conn.fileno()
    if fd >= 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)


def abandon(adapter: Any) -> None:
    """Park the running greenlet for ever: it is a copy of one that waits in the parent process.

    Only an exception thrown into it leaves: a kill, or the end of a hub that has nothing to do.
    """
    _copies.append(_waiters.getcurrent())
    while True:
        adapter.wait_for_ever()


def _before() -> None:
    global count
    if count >= 0:
        count = ~count


def _after_in_parent() -> None:
    global count
    if count < 0:
        count = ~count


def _after_in_child() -> None:
    global count, _pid
    pid = os.getpid()
    if pid != _pid:
        _pid = pid
        count = (~count if count < 0 else count) + 1


if hasattr(os, "register_at_fork") and sys.platform != "win32":
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
