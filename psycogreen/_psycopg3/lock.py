"""The lock of a connection. A greenlet that waits for it lets other greenlets run."""

import _socket
import collections
import contextlib
from typing import ClassVar

from psycogreen import _forks
from psycogreen._adapter import Adapter
from psycogreen._waiting import POLL_READ, wait_ready


class _Turn:
    """One greenlet or thread that waits for the lock.

    It waits on a socket: every hub, and a thread without a hub, can wait for that, and any
    thread can write to it.
    """

    def __init__(self) -> None:
        self.mine, self._theirs = _socket.socketpair()

    def come(self) -> None:
        with contextlib.suppress(OSError):  # another thread has just given up
            self._theirs.send(b"x")

    def close(self) -> None:
        self.mine.close()
        self._theirs.close()


class GreenLock:
    """Replaces the ``threading.Lock`` with which psycopg lets threads take turns at a connection.

    Without monkey-patching, that lock would stop the hub.
    """

    __slots__ = ("_free", "_turns", "process")

    adapter: ClassVar[Adapter]

    def __init__(self) -> None:
        #: The number of the process that made the connection.
        self.process = _forks.current()
        # Holds one object while the lock is free. To append and to pop one is atomic.
        self._free = collections.deque([None])
        self._turns: collections.deque[_Turn] = collections.deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """See ``threading.Lock``."""
        try:
            self._free.pop()
        except IndexError:
            return blocking and self._wait(None if timeout < 0 else timeout)
        return True

    def release(self) -> None:
        """See ``threading.Lock``."""
        if self._free:
            raise RuntimeError("release unlocked lock")
        while True:
            if self._turns:
                with contextlib.suppress(IndexError):
                    # The longest waiter gets the lock.
                    self._turns.popleft().come()
                    return
            self._free.append(None)
            if not self._turns:
                return
            # A greenlet may have begun to wait meanwhile without noticing that the lock is free.
            try:
                self._free.pop()
            except IndexError:
                return

    def locked(self) -> bool:
        """See ``threading.Lock``."""
        return not self._free

    def __enter__(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            self._wait(None)
        return True

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _wait(self, seconds: float | None) -> bool:
        turn = _Turn()
        process = _forks.current()
        try:
            self._turns.append(turn)
            ours = False
            try:
                try:
                    self._free.pop()
                    ours = True
                except IndexError:
                    ours = bool(wait_ready(self.adapter, turn.mine.fileno(), POLL_READ, seconds))
                    _forks.stop_copy(process, self.adapter, turn.mine)  # the turn is the parent process's
            finally:
                try:
                    self._turns.remove(turn)
                except ValueError:
                    # It is our turn, even if an exception or the timeout came before we noticed.
                    if not ours:
                        self.release()
            return ours
        finally:
            turn.close()
