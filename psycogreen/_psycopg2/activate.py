"""Registering a wait callback with psycopg2, and standing in for its connect()."""

import functools
from collections.abc import Callable
from typing import Any

from psycogreen._adapter import Adapter

# The callback with which psycopg2.connect() hands out green connections.
_green_callback: Callable[..., None] | None = None


def register(callback: Callable[..., None], adapter: Adapter, connections: bool, cancel: bool) -> None:
    """Make *callback* the wait callback of the process.

    Args:
        callback: The wait callback.
        adapter: The adapter of its hub.
        connections: Have psycopg2.connect() hand out green connections from
            now on, while *callback* is the registered one.
        cancel: Have the server cancel the query of a green connection when an
            exception ends the wait for it.

    Raises:
        ImportError: psycopg2 is not installed or has no wait callbacks.
    """
    global _green_callback
    try:
        import psycopg2
        from psycopg2 import extensions
    except ImportError as exc:
        raise ImportError(
            "psycogreen needs psycopg2: install psycopg2, or psycopg2-binary where no compiler is at hand"
        ) from exc
    if not hasattr(extensions, "set_wait_callback"):
        raise ImportError(
            f"support for coroutines not available in this Psycopg version ({psycopg2.__version__}):"
            " install 2.9 or later"
        )
    if connections:
        from psycogreen._psycopg2.connection import GreenConnection, green_encrypt_password

        GreenConnection._green_adapter = adapter
        GreenConnection._green_cancel = cancel
        # psycopg2.connect() looks _connect() up at each call, so this also
        # reaches those who imported connect() by name.
        _replace(psycopg2, "_connect", _green_connect)
        _replace(extensions, "encrypt_password", green_encrypt_password)
    _green_callback = callback if connections else None
    extensions.set_wait_callback(callback)


def _replace(module: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace function *name* of *module* by what *make* makes of it, unless that is there already.

    It calls the function that it found, which may be a tracing library's. A
    reload of the module, or a library that puts the original back, removes it:
    then the next call replaces the function again.
    """
    original = getattr(module, name)
    if not getattr(original, "_psycogreen", False):  # what wraps ours shows its attributes
        function: Any = functools.wraps(original)(make(original))
        function._psycogreen = True
        setattr(module, name, function)


def _green_connect(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement of psycopg2._connect(), which calls *original*."""
    # Imported here: in each call, the import statements would cost more than the rest.
    from psycopg2.extensions import get_wait_callback

    from psycogreen._psycopg2.connection import green_connect

    def connect(dsn: str, connection_factory: Any = None, **kwasync: Any) -> Any:
        callback = get_wait_callback()
        if _green_callback is None or callback not in (None, _green_callback) or any(kwasync.values()):
            return original(dsn, connection_factory=connection_factory, **kwasync)
        return green_connect(original, dsn, connection_factory, blocking=callback is None)

    return connect
