"""Registering a wait callback with psycopg2."""

from collections.abc import Callable


def register(callback: Callable[..., None]) -> None:
    """Make *callback* the wait callback of the process.

    Raises:
        ImportError: psycopg2 is not installed or has no wait callbacks.
    """
    try:
        from psycopg2 import __version__, extensions
    except ImportError as exc:
        raise ImportError(
            "psycogreen needs psycopg2: install psycopg2, or psycopg2-binary where no compiler is at hand"
        ) from exc
    if not hasattr(extensions, "set_wait_callback"):
        raise ImportError(
            f"support for coroutines not available in this Psycopg version ({__version__}): install 2.9 or later"
        )
    extensions.set_wait_callback(callback)
