"""Waiting until a condition holds, with a time limit."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

# Seconds for all that should happen in a test. A hang in the hub then fails one test.
# pytest-timeout's limit is for hangs that the hub can't end.
PATIENCE = 30


def wait_until(
    condition: Callable[[], Any], timeout: float = PATIENCE, pause: Callable[[], Any] = lambda: time.sleep(0.01)
) -> Any:
    """Call *condition* until it returns something true, with a *pause* between two calls; return that.

    The default pause stops the thread. In a greenlet, call the hub's wait_until().

    Raises:
        AssertionError: *condition* did not hold within *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while not (held := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout} s"
        pause()
    return held


async def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Do the same as wait_until() in a coroutine: the event loop runs on."""
    deadline = time.monotonic() + timeout
    while not (held := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout} s"
        await asyncio.sleep(0.002)
    return held
