"""What is green in this process, as data."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycogreen import _surroundings
from psycogreen._implementation import implementation, poller, why_pure
from psycogreen._setup_warnings import (
    adapter_of,
    foreign_callback,
    name_of,
    not_green,
    not_in_uwsgi,
    not_patched,
    open_connections,
    other_library,
)

_ADVICE = "Call make_psycopg_green() of the module of psycogreen for the library that runs here"


@dataclass(frozen=True)
class Status:
    """What is green in this process, seen from the thread that asks."""

    #: The wait loop: "cython" or "python".
    implementation: str
    #: The kernel's interface that the compiled loop uses: "epoll" or "kqueue". None for the pure loop.
    poller: str | None
    #: Why the pure loop is in use; None if the compiled one is.
    why_pure: str | None
    #: The wait callback that is registered with psycopg2, by module and name. None: psycopg2 blocks.
    callback: str | None
    #: The library of the adapter, if the callback is psycogreen's; None if it is another library's callback.
    adapter: str | None
    #: Whether ``psycopg2.connect()`` returns green connections.
    connections: bool
    #: The libraries that have a hub, or a running event loop, in this thread.
    hubs: tuple[str, ...]
    #: The modules of the standard library that each library has patched.
    monkey_patched: Mapping[str, tuple[str, ...]]
    #: Open connections that are green.
    green_connections: int
    #: Open connections that are not green: made before ``make_psycopg_green()``, or not by ``psycopg2.connect()``.
    other_connections: int
    #: Whether psycopg 3 is green; None if it is not imported.
    psycopg3: bool | None
    #: The problems, each with advice.
    problems: tuple[str, ...]


def status() -> Status:
    """See ``psycogreen.status()``."""
    callback, connections, green, other = _psycopg2()
    adapter = adapter_of(callback)
    hubs = _surroundings.hubs()
    return Status(
        implementation=implementation,
        poller=poller,
        why_pure=why_pure,
        callback=None if callback is None else name_of(callback),
        adapter=adapter,
        connections=connections,
        hubs=hubs,
        monkey_patched=_surroundings.monkey_patched(),
        green_connections=green,
        other_connections=other,
        psycopg3=_psycopg3(),
        problems=tuple(_problems(callback, adapter, hubs, other if connections else 0)),
    )


def _psycopg2() -> tuple[Any, bool, int, int]:
    """Return psycopg2's wait callback, whether new connections are green, and how many open ones are, and are not."""
    extensions: Any = sys.modules.get("psycopg2.extensions")
    if extensions is None:
        return None, False, 0, 0
    callback = extensions.get_wait_callback()
    activate: Any = sys.modules.get("psycogreen._psycopg2.activate")
    makes_green = activate is not None and activate.makes_green(callback)
    connections = open_connections(extensions)
    green = sum(hasattr(type(connection), "_green_poll") for connection in connections)
    return callback, makes_green, green, len(connections) - green


def _psycopg3() -> bool | None:
    """Return whether psycopg 3 is green, None if it is not imported."""
    connection = getattr(sys.modules.get("psycopg"), "Connection", None)
    return None if connection is None else hasattr(connection, "_psycogreen")


def _problems(callback: Any, adapter: str | None, hubs: Sequence[str], other: int) -> Iterator[str]:
    if "psycopg2" not in sys.modules:
        if _psycopg3() is False:
            yield "psycopg 3 is not green. " + _ADVICE
        return
    if callback is None:
        yield "psycopg2 blocks: no wait callback is registered. " + _ADVICE
    elif adapter is None:
        yield foreign_callback(callback)
    else:
        for problem in other_library(adapter, hubs), not_patched(adapter), not_in_uwsgi(adapter):
            if problem is not None:
                yield problem
    if other:
        yield not_green(other)
