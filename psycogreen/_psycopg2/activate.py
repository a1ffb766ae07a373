"""Registering a wait callback with psycopg2, and replacing functions of psycopg2's that would block."""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from psycogreen import _surroundings
from psycogreen._adapter import Adapter
from psycogreen._implementation import why_pure
from psycogreen._setup_warnings import (
    adapter_of,
    foreign_callback,
    not_green,
    not_in_uwsgi,
    not_patched,
    open_connections,
    other_library,
    pure_loop,
    warn_once,
    without_arguments,
)

# While this is the registered callback, be it in a functools.partial, psycopg2.connect()
# returns green connections.
_green_callback: Callable[..., None] | None = None

# The coroutine library of that callback.
_library = ""

# The arguments of the last call of register().
_registered: tuple[Callable[..., None], dict[str, object]] | None = None


def register(
    callback: Callable[..., None], adapter: Adapter, connections: bool, cancel: bool, timeout: float | None
) -> None:
    """Make *callback* the wait callback of the process.

    Args:
        callback: The wait callback.
        adapter: The adapter that *callback* uses.
        connections: Make psycopg2.connect() return green connections while
            *callback* is the registered one.
        cancel: Ask the server to cancel the query of a green connection when an
            exception ends the wait for the query.
        timeout: Seconds that each wait may take; None for no limit.

    Raises:
        ImportError: psycopg2 is not installed, is too old, or has no wait callbacks.
        TypeError, ValueError: An option has a wrong type or value.
    """
    global _green_callback, _library, _registered
    options: dict[str, object] = {"connections": connections, "cancel": cancel, "timeout": timeout}
    _check_options(options)
    may_be_late = "psycopg2" in sys.modules and _registered is None
    extensions = _psycopg2_extensions()
    if why_pure is not None:
        message = pure_loop(why_pure)
        if message is not None:
            warn_once(message)
    _warn_of_earlier_calls(callback, options, extensions.get_wait_callback())
    if connections:
        from psycogreen._psycopg2.connection import GreenConnection, green_encrypt_password

        earlier = open_connections(extensions) if may_be_late else []
        if earlier:
            warn_once(not_green(len(earlier)))
        GreenConnection._green_adapter = adapter
        GreenConnection._green_cancel = cancel
        # psycopg2.connect() looks up _connect() at each call. So this also works for
        # code that imported connect() by name.
        _replace(sys.modules["psycopg2"], "_connect", _green_connect)
        _replace(extensions, "encrypt_password", green_encrypt_password)
    _green_callback = callback if connections else None
    _library = str(adapter_of(callback))
    _registered = callback, options
    if timeout is not None:
        timeout_type: Callable[[float], float] = getattr(adapter, "timeout_type", float)
        callback = functools.partial(callback, timeout=timeout_type(timeout))
    extensions.set_wait_callback(callback)


def makes_green(callback: Any) -> bool:
    """Return whether psycopg2.connect() returns green connections while *callback* is the registered one."""
    return _green_callback is not None and without_arguments(callback) is _green_callback


def _check_options(options: dict[str, object]) -> None:
    for name in "connections", "cancel":
        if not isinstance(options[name], bool):
            raise TypeError(f"{name} must be True or False, not {options[name]!r}")
    timeout = options["timeout"]
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be above 0, or None for no limit, not {timeout!r}")


def _psycopg2_extensions() -> Any:
    """Return psycopg2.extensions.

    Raises:
        ImportError: psycopg2 is not installed, is too old, or has no wait callbacks.
    """
    try:
        import psycopg2
        from psycopg2 import extensions
    except ImportError as exc:
        raise ImportError(
            "psycogreen needs psycopg2: install psycopg2, or psycopg2-binary where no compiler is at hand"
        ) from exc
    version = psycopg2.__version__.partition(" ")[0]
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < (2, 9):
        raise ImportError(
            f"psycogreen needs psycopg2 2.9 or later, and this is {version}:"
            " pip install --upgrade psycopg2, or psycopg2-binary if that is what is installed"
        )
    if not hasattr(extensions, "set_wait_callback"):
        raise ImportError(
            f"support for coroutines not available in this Psycopg version ({psycopg2.__version__}):"
            " install psycopg2 or psycopg2-binary 2.9 or later"
        )
    return extensions


def _warn_of_earlier_calls(callback: Any, options: dict[str, object], registered: Any) -> None:
    adapter = str(adapter_of(callback))
    message = not_in_uwsgi(adapter)
    if message is not None:
        warn_once(message)
    if _registered is None or without_arguments(registered) is not _registered[0]:
        return
    if callback is not _registered[0]:
        earlier = adapter_of(_registered[0])
        warn_once(
            f"psycogreen.{adapter}.make_psycopg_green() was called after that of psycogreen.{earlier}, and takes its"
            " place in the whole process: call only that of the library in which your program runs"
        )
    elif options != _registered[1]:
        changed = [name for name in options if options[name] != _registered[1][name]]
        warn_once(
            "make_psycopg_green() was called again, with"
            f" {', '.join(f'{name}={options[name]!r} (before: {_registered[1][name]!r})' for name in changed)}:"
            " the last call counts. Call it once in each process"
        )


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

    from psycogreen._psycopg2.connection import GreenConnection, green_connect

    def connect(dsn: str, connection_factory: Any = None, **kwasync: Any) -> Any:
        callback = get_wait_callback()
        if _green_callback is None or (kwasync and any(kwasync.values())):
            return original(dsn, connection_factory=connection_factory, **kwasync)
        if callback is not None:
            if callback is not _green_callback and without_arguments(callback) is not _green_callback:
                warn_once(foreign_callback(callback))
                return original(dsn, connection_factory=connection_factory, **kwasync)
            _warn_of_surroundings(GreenConnection._green_adapter)
        return green_connect(original, dsn, connection_factory, blocking=callback is None)

    return connect


def _warn_of_surroundings(adapter: Adapter) -> None:
    """Warn if a connection that is asked for here will not be green, or not safely so."""
    hub = adapter.current()
    message = not_patched(_library) if hub is not None else other_library(_library, _surroundings.hubs())
    if message is not None:
        warn_once(message)
