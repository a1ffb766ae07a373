"""A clock for the pauses of a hub that does not show how busy the machine is."""

import os
import time

# The second number there is how many nanoseconds the thread was ready to run
# and the machine had no processor for it ("sched-stats" in Linux's
# documentation). Opened by this thread, the file remains that of this thread.
_SCHEDSTAT = "/proc/thread-self/schedstat"
_schedstat = os.open(_SCHEDSTAT, os.O_RDONLY) if os.path.exists(_SCHEDSTAT) else None


def clock() -> float:
    """Return the time in seconds, by a clock that stands while the main thread waits for a processor.

    A pause that it shows is one that the code made: it computed, it blocked in
    a system call, or it waited for the GIL.
    """
    waited = 0 if _schedstat is None else int(os.pread(_schedstat, 100, 0).split()[1])
    return time.monotonic() - waited * 1e-9
