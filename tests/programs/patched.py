"""The beginning of programs that run on a monkey-patched hub: makes psycopg2 green, and exports the hub's functions.

The environment variable DSN names the server. A ticker can run beside the program.
"""

import functools
import os
from typing import Any

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


from support.outcomes import caught  # noqa: E402
from support.tickers import Ticker, hide_from_collector  # noqa: E402
from support.waiting import wait_until  # noqa: E402

make_psycopg_green()


class Killed(BaseException):
    """Kills greenlets. Like GreenletExit and the hubs' Timeouts, it is not a subclass of Exception."""


def until(condition: Any) -> None:
    """Let others run until *condition* holds."""
    wait_until(condition, timeout=10, pause=lambda: sleep(0.005))


def executing(text: str) -> int:
    """Count the server's sessions that execute a query that contains *text*."""
    return observer().executing(text)


def kill_ten(query: Any, text: str) -> None:
    """Kill ten greenlets in *query*, which contains *text*; check that all ended with the kill and in the server."""
    greenlets = [spawn(caught, query) for _ in range(10)]
    until(lambda: executing(text) == 10)
    for greenlet in greenlets:
        kill(greenlet, Killed())
    for greenlet in greenlets:
        assert isinstance(wait(greenlet), Killed), wait(greenlet)
    until(lambda: executing(text) == 0)


@functools.cache
def observer() -> Any:
    from support.server_state import Observer  # imports psycopg2

    return Observer(os.environ["DSN"])


def start_ticker() -> Ticker:
    """Measure the hub's pauses from now on."""
    hide_from_collector()
    ticker = Ticker()
    spawn(ticker.run, sleep, 0.005)
    return ticker
