"""Which hubs run in this process, and what is monkey-patched, without importing a library."""

import sys
from typing import Any


def hubs() -> tuple[str, ...]:
    """Return the names of the libraries that have a hub, or a running event loop, in this thread."""
    names = []
    gevent: Any = sys.modules.get("gevent._hub_local")
    if gevent is not None and gevent.get_hub_if_exists() is not None:
        names.append("gevent")
    eventlet: Any = sys.modules.get("eventlet.hubs")
    if eventlet is not None and getattr(eventlet._threadlocal, "hub", None) is not None:
        names.append("eventlet")
    asyncio: Any = sys.modules.get("asyncio.events")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        names.append("asyncio")
    return tuple(names)


def monkey_patched() -> dict[str, tuple[str, ...]]:
    """Return the names of the standard library's modules that each library has patched."""
    patched = {}
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.saved:
        patched["gevent"] = tuple(sorted(name for name in gevent.saved if not name.startswith("_gevent")))
    eventlet: Any = sys.modules.get("eventlet.patcher")
    # "psycopg" is psycogreen's own entry.
    modules = sorted(eventlet.already_patched.keys() - {"psycopg"}) if eventlet is not None else []
    if modules:
        patched["eventlet"] = tuple(modules)
    return patched


def threads_are_patched(library: str) -> bool:
    """Return whether *library*, gevent or eventlet, has replaced locks and thread-locals."""
    if library == "gevent":
        gevent: Any = sys.modules.get("gevent.monkey")
        return gevent is not None and gevent.is_module_patched("threading")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    return eventlet is not None and eventlet.is_monkey_patched("thread")
