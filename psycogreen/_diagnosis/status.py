"""What is green in this process, as data."""

import functools
import gc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycogreen import _surroundings
from psycogreen._implementation import implementation, poller, why_pure


@dataclass(frozen=True)
class Status:
    """What is green in this process, seen from the thread that asks."""

    #: The wait loop: "cython" or "python".
    implementation: str
    #: What the compiled loop asks for ready sockets: "epoll" or "kqueue".
    poller: str | None
    #: Why that is the pure loop; None if it is the compiled one.
    why_pure: str | None
    #: The wait callback that is registered with psycopg2, by module and name. None: psycopg2 blocks.
    callback: str | None
    #: The library for which that callback is psycogreen's; None if it is somebody else's.
    adapter: str | None
    #: Whether ``psycopg2.connect()`` returns green connections.
    connections: bool
    #: The libraries that have a hub, or a running event loop, in this thread.
    hubs: tuple[str, ...]
    #: The modules of the standard library that each library has patched.
    monkey_patched: Mapping[str, tuple[str, ...]]
    #: Open connections that are green.
    green_connections: int
    #: Open connections that are not: made before ``make_psycopg_green()``, or past it.
    other_connections: int
    #: Whether psycopg 3, which psycogreen leaves alone, is imported.
    psycopg3: bool
    #: What is wrong, each with what to do about it.
    problems: tuple[str, ...]


def status() -> Status:
    """See ``psycogreen.status()``."""
    callback, connections, green, other = _psycopg2()
    module, name = _where(callback)
    prefix, _, adapter = module.rpartition(".")
    of_ours = prefix == "psycogreen"
    hubs = _surroundings.hubs()
    problems = []
    if "psycopg2" in sys.modules:
        if callback is None:
            problems.append(
                "psycopg2 blocks: no wait callback is registered."
                " Call make_psycopg_green() of the module of psycogreen for the library that runs here"
            )
        elif not of_ours:
            problems.append(
                f"{module}.{name} is registered with psycopg2, which is not psycogreen's."
                " Call make_psycopg_green() after what registered it, or leave that out"
            )
        elif hubs and adapter not in hubs and adapter != "uwsgi":
            problems.append(
                f"{hubs[0]} runs in this thread, and the wait callback is that of {adapter}:"
                f" all wait while one waits. Call psycogreen.{hubs[0]}.make_psycopg_green()"
            )
    if connections and other:
        problems.append(
            f"{other} open {'connection is' if other == 1 else 'connections are'} not green."
            " Call make_psycopg_green() before the first connection is made"
        )
    return Status(
        implementation=implementation,
        poller=poller,
        why_pure=why_pure,
        callback=f"{module}.{name}" if callback is not None else None,
        adapter=adapter if of_ours else None,
        connections=connections,
        hubs=hubs,
        monkey_patched=_surroundings.monkey_patched(),
        green_connections=green,
        other_connections=other,
        psycopg3="psycopg" in sys.modules,
        problems=tuple(problems),
    )


def _psycopg2() -> tuple[Any, bool, int, int]:
    """Return psycopg2's wait callback, whether new connections are green, and how many are, and are not."""
    extensions: Any = sys.modules.get("psycopg2.extensions")
    if extensions is None:
        return None, False, 0, 0
    callback = extensions.get_wait_callback()
    activate: Any = sys.modules.get("psycogreen._psycopg2.activate")
    green: Any = sys.modules.get("psycogreen._psycopg2.connection")
    counts = {True: 0, False: 0}
    for candidate in gc.get_objects():
        # By type(): isinstance() would ask the proxies of other libraries.
        if issubclass(type(candidate), extensions.connection) and not (candidate.closed or candidate.async_):
            counts[green is not None and isinstance(candidate, green.GreenConnection)] += 1
    connections = activate is not None and activate.makes_green(callback)
    return callback, connections, counts[True], counts[False]


def _where(callback: Any) -> tuple[str, str]:
    while isinstance(callback, functools.partial):
        callback = callback.func
    return getattr(callback, "__module__", ""), getattr(callback, "__qualname__", repr(callback))
