"""What psycopg 3.1 does otherwise than later releases."""

import threading
import types
from collections.abc import Callable, Generator
from typing import Any

import psycopg.connection
import psycopg.waiting
from psycopg import Connection, ProgrammingError, errors

in_use = psycopg.__version__.startswith("3.1.")

# Seconds between two looks at a socket that is not ready; see _patient().
_INTERVAL = 60.0

_try_cancel: Any = getattr(Connection, "_try_cancel", None)


def make_green(wait: Callable[..., Any], wait_conn: Callable[..., Any], lock: type) -> None:
    """Put the functions and the lock for later releases into places where 3.1 looks for them."""
    connection_class: Any = Connection
    modules: Any = psycopg

    def wait_in_31(self: Any, gen: Any, timeout: float | None = None) -> Any:
        """See psycopg. It has *timeout* only to notice Ctrl-C meanwhile."""
        return wait(self, gen)

    def wait_conn_in_31(gen: Any, timeout: float | None = None) -> Any:
        """See psycopg."""
        try:
            return wait_conn(_patient(gen), _INTERVAL, timeout or None)
        except errors.ConnectionTimeout:
            raise errors.ConnectionTimeout("connection timeout expired") from None

    modules.errors._WaitTimeout = errors.ConnectionTimeout
    connection_class.wait = wait_in_31
    connection_class._should_cancel = _should_cancel
    connection_class._try_cancel = _try_cancel_in_31
    modules.waiting.wait_conn = wait_conn_in_31
    modules.connection.threading = types.SimpleNamespace(**(vars(threading) | {"Lock": lock}))


def _patient(gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run *gen*, a generator of 3.1's, which does not expect to go on before the socket is ready."""
    ready = None
    try:
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as exc:
                return exc.value
            ready = None
            while not ready:
                ready = yield wanted
    finally:
        gen.close()


def _should_cancel(self: Any) -> bool:
    """What later releases have in a method of its own."""
    if self.closed:
        return False
    if self._tpc and self._tpc[1]:
        raise ProgrammingError("cancel() cannot be used with a prepared two-phase transaction")
    return True


def _try_cancel_in_31(self: Any, pgconn: Any = None, timeout: float | None = None) -> None:
    """What later releases call with a timeout, and 3.1 with its PGconn."""
    _try_cancel(self.pgconn)
