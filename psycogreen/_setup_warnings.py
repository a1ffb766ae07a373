"""Warnings of wrong set-ups, with advice. Each is given once in a process."""

import functools
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from psycogreen import _surroundings

# Libraries with locks and thread-locals: see docs/frameworks.md.
_FRAMEWORKS = {"sqlalchemy.pool": "SQLAlchemy", "django.db": "Django", "peewee": "peewee"}


class SetupWarning(RuntimeWarning):
    """psycopg2 is not green here, or not safely so. The message says what to do."""


_given: set[str] = set()


def warn_once(message: str) -> None:
    """Warn with *message*, unless this process has already done so."""
    if message not in _given:
        _given.add(message)
        warnings.warn(message, SetupWarning, stacklevel=_stacklevel())


def _stacklevel() -> int:
    """Return the level of the first caller outside of psycogreen and psycopg2, for warn_once()."""
    level = 1
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("psycogreen", "psycopg2"):
        frame = frame.f_back
        level += 1
    return level


def without_arguments(callback: Any) -> Any:
    """Return the function inside of the partials of *callback*."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return callback


def name_of(callback: Any) -> str:
    """Return the module and name of *callback*."""
    function = without_arguments(callback)
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def adapter_of(callback: Any) -> str | None:
    """Return the library of the adapter whose wait callback *callback* is; None if it is not psycogreen's."""
    package, _, adapter = str(getattr(without_arguments(callback), "__module__", "")).rpartition(".")
    return adapter if package == "psycogreen" else None


def foreign_callback(callback: Any) -> str:
    """Return the warning about *callback*, which is not psycogreen's."""
    return (
        f"the wait callback {name_of(callback)} is registered with psycopg2 in place of psycogreen's:"
        " call make_psycopg_green() after what registers that one, or leave that out"
        " (psycogreen's wait callback may be registered by hand, in a functools.partial() too)"
    )


def other_library(adapter: str, running: Sequence[str]) -> str | None:
    """Return the warning about a thread in which only *running* have a hub, and not the library of *adapter*."""
    if not running or adapter in (*running, "uwsgi"):
        return None
    return (
        f"{running[0]} runs in this thread, and the wait callback is that of {adapter}: queries run one after the"
        f" other. Call psycogreen.{running[0]}.make_psycopg_green()"
    )


def not_patched(adapter: str) -> str | None:
    """Return the warning about a framework on *adapter*'s library without monkey-patching, or None."""
    if _FRAMEWORKS.keys().isdisjoint(sys.modules.keys()):
        return None  # at once: each connect() asks this
    if adapter not in ("gevent", "eventlet") or _surroundings.threads_are_patched(adapter):
        return None
    used = [name for module, name in _FRAMEWORKS.items() if module in sys.modules]
    patch = "gevent.monkey.patch_all()" if adapter == "gevent" else "eventlet.monkey_patch()"
    return (
        f"{used[0]} is used on {adapter}, and the standard library is not monkey-patched: greenlets share its"
        f" thread-locals, and its locks can stop the process. Call {patch} before all other imports"
    )


def not_in_uwsgi(adapter: str) -> str | None:
    """Return the warning about a uWSGI that does not run *adapter*'s library, or None."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or adapter not in ("gevent", "eventlet") or adapter in uwsgi.opt:
        return None
    return (
        f"uWSGI does not run {adapter}, so requests wait one after the other:"
        " set gevent = 100 and use psycogreen.gevent, or use psycogreen.uwsgi with uWSGI's own green threads"
    )


def pure_loop(why: str) -> str | None:
    """Return the warning about the pure loop, in use because of *why*; None if it is the only one here."""
    wanted = os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0")
    if wanted or sys.implementation.name != "cpython" or sys.platform not in ("linux", "darwin"):
        return None
    return (
        f"psycogreen's pure Python wait loop is in use, which takes more CPU time: {why}. Install a C compiler, and"
        " then pip install --force-reinstall --no-deps --no-cache-dir psycogreen; or set PSYCOGREEN_NO_EXTENSIONS=1,"
        " which chooses the pure loop without this warning"
    )


def not_green(count: int) -> str:
    """Return the warning about *count* connections made before."""
    return (
        f"{count} open connection{'s are' if count > 1 else ' is'} not green, made before make_psycopg_green() or"
        " past it: a commit() from another greenlet can stop the process, and COPY is refused on them."
        " Call make_psycopg_green() before the first connection is made"
    )


def open_connections(extensions: Any) -> list[Any]:
    """Return psycopg2's open connections, except those for which psycopg2 calls no wait callback.

    There is no list of connections, so search all objects.
    """
    replication: type = sys.modules["psycopg2._psycopg"].ReplicationConnection
    connections = []
    for candidate in gc.get_objects():
        # By type(), because isinstance() would run code of other libraries' proxies.
        if issubclass(type(candidate), extensions.connection):
            if not (candidate.closed or candidate.async_ or issubclass(type(candidate), replication)):
                connections.append(candidate)
    return connections
