"""The outcomes of calls: a result or an exception."""

from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import extensions

_DIAGNOSTICS = [name for name in dir(extensions.Diagnostics) if not name.startswith("_")]


def diagnostics(exc: psycopg2.Error) -> dict[str, Any]:
    """Return the fields of the server's error, by the names of psycopg2's Diagnostics."""
    return {name: getattr(exc.diag, name) for name in _DIAGNOSTICS}


def outcome(fn: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """Call *fn*; return all that a caller can see of its result or its exception."""
    try:
        return "returned", fn(*args)
    except psycopg2.Error as exc:
        return "raised", type(exc), str(exc), exc.pgcode, exc.pgerror, diagnostics(exc)
    except Exception as exc:
        return "raised", type(exc), str(exc)


def caught(fn: Callable[..., Any], *args: Any) -> Any:
    """Call *fn*; return its result, or the exception that it raises."""
    try:
        return fn(*args)
    except BaseException as exc:
        return exc


class Outcome:
    """A call whose result or exception another greenlet fetches. The hub sees no exception.

    Otherwise gevent would turn GreenletExit into a result, and KeyboardInterrupt would
    end the test run.
    """

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._fn, self._args = fn, args
        self.done = False
        self._result: Any = None
        self._exc: BaseException | None = None

    def run(self) -> None:
        """Make the call."""
        try:
            self._result = self._fn(*self._args)
        except BaseException as exc:
            self._exc = exc
        finally:
            self.done = True
            del self._fn, self._args

    def get(self) -> Any:
        """Return the function's result or raise its exception, once."""
        exc, self._exc = self._exc, None
        if exc is not None:
            try:
                raise exc
            finally:
                del exc  # its traceback holds this frame
        return self._result
