"""The program that check.py runs: queries on one hub, beside a ticker.

The hub and the driver's module are its arguments, the DSN its input. It prints the seconds that the queries
took, and the seconds of the hub's longest pause.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

# The number of queries at once, and the seconds of each.
_QUERIES = 5
_SECONDS = 0.5

_INTERVAL = 0.01

# A busy machine makes pauses too, but not in each round.
_ROUNDS = 3


@dataclass(frozen=True)
class Round:
    """One round of queries."""

    #: Seconds that all queries together took.
    seconds: float
    #: The hub's longest pause, in seconds.
    longest_pause: float

    @property
    def green(self) -> bool:
        """Whether the hub kept running. Queries that stop it run one after the other."""
        return self.longest_pause < _SECONDS / 2 and self.seconds < _SECONDS * _QUERIES / 2


def _query(driver: str, dsn: str, seconds: float) -> None:
    if driver == "psycopg2":
        from psycopg2.extensions import make_dsn, parse_dsn
    else:
        from psycopg.conninfo import conninfo_to_dict as parse_dsn
        from psycopg.conninfo import make_conninfo as make_dsn
    connect = import_module(driver).connect
    connection = connect(dsn if "connect_timeout" in parse_dsn(dsn) else make_dsn(dsn, connect_timeout=10))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", (seconds,))
    finally:
        connection.close()


class _Ticker:
    def __init__(self) -> None:
        self.begun = self._last = time.monotonic()
        self.longest_pause = 0.0

    def tick(self) -> None:
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - self._last - _INTERVAL)
        self._last = now

    def end(self) -> Round:
        self.tick()
        return Round(self._last - self.begun, self.longest_pause)


def _on_gevent(queries: list[Callable[[], None]]) -> Round:
    import gevent

    ticker = _Ticker()

    def run() -> None:
        while True:
            gevent.sleep(_INTERVAL)
            ticker.tick()

    ticking = gevent.spawn(run)
    for task in gevent.joinall([gevent.spawn(query) for query in queries]):
        task.get()
    ticking.kill()
    return ticker.end()


def _on_eventlet(queries: list[Callable[[], None]]) -> Round:
    import eventlet

    ticker = _Ticker()

    def run() -> None:
        while True:
            eventlet.sleep(_INTERVAL)
            ticker.tick()

    ticking = eventlet.spawn(run)
    for task in [eventlet.spawn(query) for query in queries]:
        task.wait()
    ticking.kill()
    return ticker.end()


def _on_asyncio(queries: list[Callable[[], None]]) -> Round:
    import asyncio

    from psycogreen.asyncio import spawn

    ticker = _Ticker()

    async def run() -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            ticker.tick()

    async def main() -> None:
        ticking = asyncio.create_task(run())
        await asyncio.gather(*[spawn(query) for query in queries])
        ticking.cancel()

    asyncio.run(main())
    return ticker.end()


def _best_round(hub: str, driver: str, dsn: str) -> Round:
    import_module(f"psycogreen.{hub}").make_psycopg_green()
    query = functools.partial(_query, driver, dsn, _SECONDS)
    run: Callable[[list[Callable[[], None]]], Round] = globals()[f"_on_{hub}"]
    run([functools.partial(_query, driver, dsn, 0)])  # imports modules, which takes long
    best = run([query] * _QUERIES)
    for _ in range(_ROUNDS - 1):
        if not best.green:
            best = min(best, run([query] * _QUERIES), key=lambda r: r.longest_pause)
    return best


if __name__ == "__main__":
    try:
        best = _best_round(sys.argv[1], sys.argv[2], sys.stdin.read())
    except Exception as exc:
        sys.exit(" ".join(f"{type(exc).__name__}: {exc}".split()))
    print(best.seconds, best.longest_pause)
