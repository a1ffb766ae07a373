"""Child processes of programs whose greenlets are busy."""

import os
import time
from collections.abc import Callable


def fork_often(
    times: int, child: Callable[[], object], fork: Callable[[], int], sleep: Callable[[float], object]
) -> list[str]:
    """Fork *times* times; return a complaint for each child that did not end with status 0.

    Args:
        times: How often.
        child: The function that each child runs. It ends the process.
        fork: ``os.fork()`` or the hub's function in its place.
        sleep: The hub's function.
    """
    wrong = []
    for number in range(times):
        sleep(0.007 * number)
        pid = fork()
        if pid == 0:
            child()
        limit = time.monotonic() + 20
        while not (status := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < limit:
            sleep(0.005)
        if status != (pid, 0):
            wrong.append(f"a child ended with {status}")
    return wrong
