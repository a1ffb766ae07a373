"""Connecting: resolving names, and waiting for servers, without stopping the hub.

psycopg itself tries one address after the other, each under its connect_timeout.
"""

import os
import socket
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

from psycopg import errors, pq

from psycogreen import _forks
from psycogreen._adapter import Adapter
from psycogreen._waiting import wait_ready

# The parameters of the servers, which psycopg evaluates itself.
_KEYWORDS = {b"host", b"hostaddr", b"port", b"target_session_attrs", b"load_balance_hosts"}

# libpq looks at sslmode when it has read the service file, and refuses this one
# before it looks for a server.
_INVALID_SSLMODE = b"psycogreen"


def wait_conn(
    adapter: Adapter,
    generator: Generator[tuple[int, int], int | None, Any],
    interval: float,
    timeout: float | None,
) -> Any:
    """Run *generator*, which yields a descriptor and the events to wait for; return its result.

    Args:
        adapter: The coroutine library.
        generator: The generator.
        interval: The seconds after which the generator gets a 0, although the descriptor is not ready.
        timeout: The seconds after which this raises psycopg's _WaitTimeout; None is no limit.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    process = _forks.current()
    try:
        ready = None
        while True:
            try:
                fd, events = generator.send(ready)
            except StopIteration as exc:
                return exc.value
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            ready = wait_ready(adapter, fd, events, max(0.0, left))
            if _forks.is_copy(process):
                _forks.abandon(adapter, _Unfinished(fd))
            if not ready and deadline is not None and time.monotonic() >= deadline:
                raise errors._WaitTimeout
    finally:
        # The traceback of an exception would keep its connection open.
        generator.close()


class _Unfinished(NamedTuple):
    """A connection that is being made: libpq has not given it to psycopg's Connection yet."""

    fd: int

    def fileno(self) -> int:
        return self.fd


class Resolver:
    """Replaces the module *socket* in the module of psycopg that resolves names."""

    def __init__(self, adapter: Callable[[], Adapter]) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def getaddrinfo(self, host: str, *args: Any, **kwargs: Any) -> list[Any]:
        """See ``socket.getaddrinfo()``. The port does not matter: psycopg takes only the addresses."""
        adapter = self._adapter()
        if adapter.current() is None:
            return socket.getaddrinfo(host, *args, **kwargs)
        return adapter.getaddrinfo(host)


def with_service(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *params* with the hosts of the service that they or the environment name.

    psycopg leaves service files to libpq, which would stop the hub while it resolves their names.
    """
    service = params.get("service") or os.environ.get("PGSERVICE")
    if not service:
        return params
    options = [b"service='%s'" % os.fsencode(str(service).replace("\\", "\\\\").replace("'", "\\'"))]
    if params.get("servicefile"):
        options.append(b"servicefile='%s'" % os.fsencode(str(params["servicefile"])))
    conn = pq.PGconn.connect_start(b" ".join([*options, b"sslmode=" + _INVALID_SSLMODE]))
    used = {option.keyword: option.val for option in conn.info if option.val is not None}
    conn.finish()
    if used.get(b"sslmode") != _INVALID_SSLMODE:
        return params  # the service does not exist: libpq will raise
    from_service = {key.decode(): os.fsdecode(value) for key, value in used.items() if key in _KEYWORDS and value}
    return from_service | {key: value for key, value in params.items() if value is not None}
