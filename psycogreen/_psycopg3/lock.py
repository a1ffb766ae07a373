"""The lock of a connection: whoever waits for it lets other greenlets run."""

import _socket
import collections
import contextlib
from typing import ClassVar

from psycogreen._adapter import Adapter
from psycogreen._waiting import POLL_READ, wait_ready


class _Turn:
    """One greenlet or thread that waits for the lock.

    It waits on a socket, which serves every hub, and a thread without one, and can
    be written to in any thread.
    """

    def __init__(self) -> None:
        self.mine, self._theirs = _socket.socketpair()

    def come(self) -> None:
        with contextlib.suppress(OSError):  # another thread has given up in this moment
            self._theirs.send(b"x")

    def close(self) -> None:
        self.mine.close()
        self._theirs.close()


class GreenLock:
    """In the place of the ``threading.Lock`` by which psycopg's connections are used in turn.

    That lock would stop the thread where the standard library is not patched.
    """

    __slots__ = ("_free", "_turns")

    adapter: ClassVar[Adapter]

    def __init__(self) -> None:
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
            with contextlib.suppress(IndexError):
                # The lock goes over to the one who waits for longest.
                self._turns.popleft().come()
                return
            self._free.append(None)
            if not self._turns:
                return
            # Somebody has begun to wait meanwhile, and may not have seen that the lock is free.
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
        try:
            self._turns.append(turn)
            ours = False
            try:
                try:
                    self._free.pop()
                    ours = True
                except IndexError:
                    ours = bool(wait_ready(self.adapter, turn.mine.fileno(), POLL_READ, seconds))
            finally:
                try:
                    self._turns.remove(turn)
                except ValueError:
                    # It is our turn, even if an exception, or the time, came before we saw that.
                    if not ours:
                        self.release()
            return ours
        finally:
            turn.close()
