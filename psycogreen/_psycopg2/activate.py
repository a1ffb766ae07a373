"""Registering a wait callback with psycopg2, and replacing functions of psycopg2's that would block."""

import functools
from collections.abc import Callable
from typing import Any

from psycogreen._adapter import Adapter

# While this is the registered callback, psycopg2.connect() returns green connections.
_green_callback: Callable[..., None] | None = None


def register(callback: Callable[..., None], adapter: Adapter, connections: bool, cancel: bool) -> None:
    """Make *callback* the wait callback of the process.

    Args:
        callback: The wait callback.
        adapter: The adapter that *callback* uses.
        connections: Make psycopg2.connect() return green connections while
            *callback* is the registered one.
        cancel: Ask the server to cancel the query of a green connection when an
            exception ends the wait for the query.

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
        # psycopg2.connect() looks up _connect() at each call. So this also works for
        # code that imported connect() by name.
        _replace(psycopg2, "_connect", _green_connect)
        _replace(extensions, "encrypt_password", green_encrypt_password)
    _green_callback = callback if connections else None
    extensions.set_wait_callback(callback)


def makes_green(callback: Any) -> bool:
    """Return whether psycopg2.connect() returns green connections while *callback* is the registered one."""
    return _green_callback is not None and callback is _green_callback


def _replace(module: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the function *name* of *module* by the result of *make*, which gets the function.

    The function may be a tracing library's, and the replacement calls it. A reload of
    *module*, or a library that puts the original back, undoes the replacement. Then the
    next call of this makes it again.
    """
    original = getattr(module, name)
    # A wrapper around our replacement has the replacement's attributes.
    if not getattr(original, "_psycogreen", False):
        function: Any = functools.wraps(original)(make(original))
        function._psycogreen = True
        setattr(module, name, function)


def _green_connect(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement of psycopg2._connect(), which calls *original*."""
    # Imported here, not in connect(), where the import statements would cost more than the rest.
    from psycopg2.extensions import get_wait_callback

    from psycogreen._psycopg2.connection import green_connect

    def connect(dsn: str, connection_factory: Any = None, **kwasync: Any) -> Any:
        callback = get_wait_callback()
        if _green_callback is None or callback not in (None, _green_callback) or any(kwasync.values()):
            return original(dsn, connection_factory=connection_factory, **kwasync)
        return green_connect(original, dsn, connection_factory, blocking=callback is None)

    return connect
