"""How long a hub stands still, and whether it keeps the processor busy."""

import os
import time
from collections.abc import Callable

# The second number there is how many nanoseconds the thread was ready to run
# and the machine had no processor for it ("sched-stats" in Linux's
# documentation). Opened by this thread, the file remains that of this thread.
_SCHEDSTAT = "/proc/thread-self/schedstat"
_schedstat = os.open(_SCHEDSTAT, os.O_RDONLY) if os.path.exists(_SCHEDSTAT) else None


def clock() -> float:
    """Return the time in seconds, by a clock that stands while the main thread waits for a processor.

    A pause that this clock shows is one that the code made: it computed, it
    blocked in a system call, or it waited for the GIL.
    """
    waited = 0 if _schedstat is None else int(os.pread(_schedstat, 100, 0).split()[1])
    return time.monotonic() - waited * 1e-9


# Seconds of the processor that sleep_takes() may return. A process that is
# woken again and again takes ten times as much, also where others want the
# processor.
SLEEP_TAKES = 0.02


def sleep_takes(sleep: Callable[[float], None]) -> float:
    """Return the seconds of the processor that this process takes while all wait for 0.4 s."""
    begun = time.process_time()
    sleep(0.4)
    return time.process_time() - begun


class Ticker:
    """A greenlet that only sleeps and wakes: code that stops the hub stops it too."""

    def __init__(self) -> None:
        #: How often it woke.
        self.ticks = 0
        #: The longest time between two ticks, in seconds of `clock`.
        self.longest_gap = 0.0
        self._last = clock()
        self._running = True

    def run(self, sleep: Callable[[float], None], interval: float) -> None:
        """Tick until stop(). This is what its greenlet runs."""
        self._last = clock()
        while True:
            sleep(interval)
            if not self._running:
                break
            self._note()
            self.ticks += 1

    def stop(self) -> None:
        """End it."""
        # A hub that stood still until now had no chance to tick.
        self._note()
        self._running = False

    def _note(self) -> None:
        now = clock()
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now
