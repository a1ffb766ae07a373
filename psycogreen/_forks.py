"""Which process a wait belongs to.

A child process has copies of the greenlets that wait in its parent, and the child's hub
may wake these copies. Their sockets are the parent's. So each wait stores the number of
the process in which it began, and compares it whenever it goes on.
"""

import os
import sys
from typing import Any

from psycogreen import _setup_warnings, _waiters

# The number of this process: how many forks led to it. While a fork is under way, this is
# the bitwise complement, a negative number. Another library's at-fork handler may run in
# the child before ours, and then only the process id says which process this is.
count = 0
_pid = os.getpid()

# The copies that were woken. If they were collected, their `finally` blocks would run.
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
    """Replace the socket of *conn*, which is the parent's, by /dev/null.

    When libpq closes the connection, it would otherwise send a Terminate message through
    the parent's socket.
    """
    try:
        fd = conn.fileno()
    except Exception:
        return  # the connection is closed
    if fd >= 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)


def warn_of_inherited(process: int) -> None:
    """Warn if process number *process*, which made a connection that is used here, is not this one."""
    if process != current():
        _setup_warnings.warn_once(
            "a connection that was made before a fork is used in the child process: each of the two processes reads"
            " answers from its socket that are for the other. Make connections after the fork: in gunicorn's"
            " post_fork, with uWSGI's lazy-apps = true, after engine.dispose(close=False) of SQLAlchemy"
        )


def abandon(adapter: Any, conn: Any) -> None:
    """Park the running greenlet for ever: it is a copy of a greenlet that uses *conn* in the parent process.

    Only an exception thrown into the greenlet ends this: a kill, or the hub's error when all greenlets wait.
    """
    _copies.append(_waiters.getcurrent())
    try:
        while True:
            adapter.wait_for_ever()
    finally:
        disconnect(conn)


def stop_copy(begun: int, adapter: Any, conn: Any) -> None:
    """Park the running greenlet for ever if its operation on *conn* began in another process.

    *begun* is the number of the process in which it began. For waits in the middle of an
    operation, outside of the wait callback.
    """
    if count != begun and is_copy(begun):
        abandon(adapter, conn)


def pause(adapter: Any, conn: Any) -> None:
    """Let the other greenlets run once, in the middle of an operation on *conn*."""
    begun = current()
    adapter.pause()
    stop_copy(begun, adapter, conn)


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
