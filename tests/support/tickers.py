"""How long a hub stops, and whether it keeps the processor busy."""

import gc
import os
import time
from collections.abc import Callable

# The second number in this file is the time, in nanoseconds, for which the thread was
# ready to run but had no processor (Linux's documentation, "sched-stats"). A file that
# this thread has opened stays this thread's, also when another thread reads it.
_SCHEDSTAT = "/proc/thread-self/schedstat"
_schedstat = os.open(_SCHEDSTAT, os.O_RDONLY) if os.path.exists(_SCHEDSTAT) else None


def clock() -> float:
    """Return the time in seconds, by a clock that stops while the main thread waits for a processor.

    So a pause by this clock comes from the code: it computed, blocked in a system call,
    or waited for the GIL.
    """
    waited = 0 if _schedstat is None else int(os.pread(_schedstat, 100, 0).split()[1])
    return time.monotonic() - waited * 1e-9


# The CPU seconds that sleep_takes() may return. A process that is woken again and again
# takes ten times as much, also on a busy machine.
SLEEP_TAKES = 0.02


def sleep_takes(sleep: Callable[[float], None]) -> float:
    """Return the CPU seconds of this process while all its greenlets wait for 0.4 s."""
    begun = time.process_time()
    sleep(0.4)
    return time.process_time() - begun


def hide_from_collector() -> None:
    """Let the garbage collector pass over the objects that there are, which are mostly those of imports.

    It would look at all of them for 50 ms, which would count as a pause of the hub.
    """
    gc.collect()
    gc.freeze()


class Ticker:
    """A greenlet that only sleeps and wakes. Code that stops the hub stops it too."""

    def __init__(self) -> None:
        #: How often the greenlet has woken.
        self.ticks = 0
        #: The longest time between two ticks, in seconds of `clock`.
        self.longest_gap = 0.0
        self._last = clock()
        self._running = True

    def run(self, sleep: Callable[[float], None], interval: float) -> None:
        """Tick until stop(). The greenlet runs this function."""
        self._last = clock()
        while True:
            sleep(interval)
            if not self._running:
                break
            self._note()
            self.ticks += 1

    def stop(self) -> None:
        """End the greenlet's loop."""
        # If the hub has stopped until now, the greenlet has not noted that gap.
        self._note()
        self._running = False

    def _note(self) -> None:
        now = clock()
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now
