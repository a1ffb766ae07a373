"""What programs of tests begin with: a monkey-patched hub, made green. See fix_frameworks.py."""

import os
import sys
import time
from typing import Any

from clock import clock

if os.environ.get("PSYCOGREEN_TEST_HUB", "gevent") == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()
    import gevent

    from psycogreen.gevent import make_psycopg_green

    spawn: Any = gevent.spawn
    sleep: Any = gevent.sleep

    def wait(greenlet: Any) -> Any:
        return greenlet.get(timeout=20)

    def kill(greenlet: Any, exc: BaseException) -> None:
        greenlet.kill(exc, block=False)

else:
    import eventlet

    eventlet.monkey_patch()
    from psycogreen.eventlet import make_psycopg_green

    spawn = eventlet.spawn
    sleep = eventlet.sleep

    def wait(greenlet: Any) -> Any:
        with eventlet.Timeout(20):
            return greenlet.wait()

    def kill(greenlet: Any, exc: BaseException) -> None:
        greenlet.kill(type(exc), exc, None)


make_psycopg_green()


class Killed(BaseException):
    """What greenlets are killed with: like GreenletExit and the hubs' Timeouts it is no Exception."""


def caught(fn: Any, *args: Any) -> Any:
    """Return what *fn* returns, or the exception it raises."""
    try:
        return fn(*args)
    except BaseException as exc:  # noqa: BLE001
        return exc


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{condition} does not hold")
        sleep(0.005)


class Ticker:
    """Measures the hub's longest pause."""

    def __init__(self) -> None:
        self.longest = 0.0
        spawn(self.run)

    def run(self) -> None:
        last = clock()
        while True:
            sleep(0.005)
            now = clock()
            self.longest = max(self.longest, now - last)
            last = now
