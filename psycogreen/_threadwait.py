"""Waiting in a native thread that has no hub."""

from typing import Any

from psycogreen._hub import Hub

# POLLIN and POLLOUT. Monkey-patching may have taken them out of *select*.
READ, WRITE = 1, 4


def wait_in_thread(hub: Hub, fd: int, event: int, timeout: Any) -> None:
    """Wait in ``poll(2)`` until *fd* is ready: only this thread waits.

    *timeout* is in seconds; None or -1 waits without limit.

    Raises:
        TimeoutError: *timeout* ended first.
    """
    poller = hub.poll()
    poller.register(fd, event)
    limit = None if timeout is None or timeout == -1 else max(0, timeout * 1000)
    if not poller.poll(limit):
        raise TimeoutError("timed out")
