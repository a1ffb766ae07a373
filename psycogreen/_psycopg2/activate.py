"""Registering a wait callback with psycopg2, and standing in for its connect()."""

from collections.abc import Callable
from typing import Any

from psycogreen._adapter import Adapter

# The callback with which psycopg2.connect() hands out green connections.
_green_callback: Callable[..., None] | None = None
# How to connect with it, and psycopg2's get_wait_callback(). Bound by register():
# the import statements would cost more than the rest of _connect().
_green_connect: Callable[[Callable[..., Any], str, Any], Any] | None = None
_get_wait_callback: Callable[[], Any] | None = None
# psycopg2._connect() as it was before it was replaced.
_psycopg_connect: Callable[..., Any] | None = None


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
    global _green_callback, _green_connect, _get_wait_callback, _psycopg_connect
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
        from psycogreen._psycopg2.connection import GreenConnection, encrypt_password, green_connect

        GreenConnection._green_adapter = adapter
        GreenConnection._green_cancel = cancel
        _green_connect, _get_wait_callback = green_connect, extensions.get_wait_callback
        if _psycopg_connect is None:
            _psycopg_connect = psycopg2._connect
            # psycopg2.connect() looks it up at each call, so this also
            # reaches those who imported connect() by name.
            psycopg2._connect = _connect
            extensions.encrypt_password = encrypt_password
    _green_callback = callback if connections else None
    extensions.set_wait_callback(callback)


def _connect(dsn: str, connection_factory: Any = None, **kwasync: Any) -> Any:
    """Stand in for psycopg2._connect()."""
    assert _psycopg_connect and _green_connect and _get_wait_callback
    if _green_callback is None or _get_wait_callback() is not _green_callback or any(kwasync.values()):
        return _psycopg_connect(dsn, connection_factory=connection_factory, **kwasync)
    return _green_connect(_psycopg_connect, dsn, connection_factory)
