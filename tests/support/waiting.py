"""Waiting until something holds, with a limit."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

# Longer than anything that works may take; a hang in the hub then fails one
# test. pytest-timeout's limit is for hangs that the hub can't end.
PATIENCE = 30


def wait_until(
    condition: Callable[[], Any], timeout: float = PATIENCE, pause: Callable[[], Any] = lambda: time.sleep(0.01)
) -> Any:
    """Wait until *condition* holds, with a *pause* between two looks; return what it returned.

    The default pause stops the thread. In a greenlet, call the wait_until() of the hub.

    Raises:
        AssertionError: It did not hold within *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while not (held := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout} s"
        pause()
    return held


async def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Do what wait_until() does, in a coroutine: the loop runs on."""
    deadline = time.monotonic() + timeout
    while not (held := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout} s"
        await asyncio.sleep(0.002)
    return held
