"""Tracing: how long psycopg2 waits for the server, for logs and metrics.

While it is off, it costs nothing: trace_waits() replaces the wait callback.
"""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Wait", "log_wait", "trace_waits"]

_logger = logging.getLogger("psycogreen")


@dataclass(frozen=True, slots=True)
class Wait:
    """One call of the wait callback: a connect, or a command up to its answer."""

    #: The connection. Keep no reference to it, which would keep it open after the program drops it.
    connection: Any
    #: "connect", "query" or "COPY".
    purpose: str
    #: How long the wait took; other greenlets ran meanwhile.
    seconds: float
    #: The exception that ended the wait (a kill, a timeout, an error of the connection), or None.
    error: BaseException | None


def log_wait(wait: Wait) -> None:
    """Log *wait* with the logger ``psycogreen``, as a warning."""
    ended = "" if wait.error is None else f", ended by {wait.error!r}"
    _logger.warning("%s took %.3f s on %r%s", wait.purpose, wait.seconds, wait.connection, ended)


def trace_waits(hook: Callable[[Wait], object] | None = log_wait, *, threshold: float = 0.0) -> None:
    """Call *hook* after each wait for the server, from now on, for the whole process.

    Call it after ``make_psycopg_green()``, which ends the tracing when it is called
    again.

    Args:
        hook: A function, called in the greenlet that waited. It must make no queries on
            the connection. An exception that it raises is logged. None ends the tracing.
        threshold: Seconds. Shorter waits are not reported.

    Raises:
        RuntimeError: No wait callback is registered.
    """
    from psycopg2.extensions import get_wait_callback, set_wait_callback

    callback = get_wait_callback()
    if callback is None:
        raise RuntimeError("no wait callback is registered with psycopg2: call make_psycopg_green() first")
    if isinstance(callback, _TracedCallback):
        callback = callback.inner
    set_wait_callback(callback if hook is None else _TracedCallback(callback, hook, threshold))


class _TracedCallback(functools.partial[None]):
    """A wrapper of the wait callback. It is a partial, so that psycogreen finds its callback inside."""

    inner: Callable[[Any], None]
    _hook: Callable[[Wait], object]
    _threshold: float

    def __new__(cls, inner: Any, hook: Callable[[Wait], object], threshold: float) -> "_TracedCallback":
        self = super().__new__(cls, inner)
        self.inner, self._hook, self._threshold = inner, hook, threshold
        return self

    def __call__(self, conn: Any) -> None:
        purpose = _purpose(conn)
        error = None
        begun = time.perf_counter()
        try:
            self.inner(conn)
        except BaseException as exc:
            error = exc
            raise
        finally:
            seconds = time.perf_counter() - begun
            if seconds >= self._threshold:
                try:
                    self._hook(Wait(conn, purpose, seconds, error))
                except Exception:
                    _logger.exception("the hook of trace_waits() failed")
            del error  # its traceback holds this frame


def _purpose(conn: Any) -> str:
    from psycopg2 import extensions

    if conn.status not in (extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED):
        return "connect"
    # During a COPY, the connection has a _green_poll of its own: see _psycopg2/copy.py.
    return "COPY" if "_green_poll" in getattr(conn, "__dict__", ()) else "query"
