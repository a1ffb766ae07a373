"""Connecting without stopping the hub, with the outcome of blocking libpq.

When libpq connects in non-blocking mode it leaves two things to its caller:
to resolve names beforehand, and to give up on an address after
connect_timeout. So names are resolved here, and libpq is handed one address
after the other, each under a limit of the hub's. What a failure means, try
the next or stop, is still libpq's to say.
"""

import _socket
import contextlib
import errno
import os
import random
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen._adapter import Adapter
from psycogreen._libpq.conninfo import Host, connect_timeout, hosts, parameters
from psycogreen._waiting import WaitTimeout

# Handed to libpq as second host wherever we have more to try. Nothing connects
# to the broadcast address, so it fails at once; that libpq came to it at all
# says that it would have tried the next, as it would not after a wrong password.
SENTINEL_HOST = Host("", "255.255.255.255", "1")

_SYSTEM_ERRORS = [os.strerror(code) for code in errno.errorcode]


# The DSN of each connection that was made with another one.
_user_dsns: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class Connecting(extensions.connection):  # type: ignore[misc]
    """Mixin of the green connection: it goes by the DSN that the user gave."""

    __slots__ = ()

    @property
    def dsn(self) -> str:
        """See psycopg2."""
        dsn: str = _user_dsns.get(self) or extensions.connection.dsn.__get__(self)
        return dsn


class _TryNextAddress(Exception):
    """The address can't be connected to, or did not answer in time."""


class _TryNextHost(Exception):
    """The server is not one that is wanted, or not yet ready; what else bears its name is not tried."""


def connect(adapter: Adapter, make: Callable[[str], Any], dsn: str) -> Any:
    """Connect with *dsn*, as blocking libpq would.

    See libpq's documentation, "Parameter Key Words", for connect_timeout,
    target_session_attrs and load_balance_hosts. connect_timeout is rounded as
    the libpq does that psycopg2 uses; here it is for psycopg2's own queries on
    the new connection, too.

    Args:
        adapter: The coroutine library.
        make: Makes psycopg2's connection for a DSN, through the wait callback.
            It is called for one address after the other. When it fails it
            leaves nothing open.
        dsn: The connection string, keywords of psycopg2.connect() included.

    Returns:
        What *make* returned.

    Raises:
        psycopg2.OperationalError: None of the hosts could be connected to; the
            message tells of each.
    """
    options = parameters(dsn)
    listed_hosts = hosts(options) if options else None
    if not options or not listed_hosts:
        return make(dsn)  # libpq refuses it, and says why
    try:
        seconds = connect_timeout(options)
    except ValueError as exc:
        raise psycopg2.OperationalError(_report(listed_hosts[0], str(exc))) from None
    changes = {}
    balance = options.get("load_balance_hosts") == "random"
    if balance:
        random.shuffle(listed_hosts)
        changes["load_balance_hosts"] = "disable"
    attempts = [(host, changes) for host in listed_hosts]
    if options.get("target_session_attrs") == "prefer-standby":
        attempts = [
            (host, changes | {"target_session_attrs": wanted}) for wanted in ("standby", "any") for host in listed_hosts
        ]
    unchanged = attempts == [(listed_hosts[0], {})]

    errors = ""
    for i, (host, changes) in enumerate(attempts, 1):
        try:
            addresses = _resolve(adapter, host)
        except (_socket.gaierror, UnicodeError) as exc:  # a UnicodeError where IDNA can't encode the name
            why = getattr(exc, "strerror", None) or exc
            errors += f'could not translate host name "{host.host}" to address: {why}\n'
            continue
        if balance:
            random.shuffle(addresses)
        for j, address in enumerate(addresses, 1):
            more = i < len(attempts) or j < len(addresses)
            attempt_dsn = dsn if unchanged and address is host else _dsn(dsn, changes, address, more)
            try:
                connection = _attempt(adapter, make, attempt_dsn, address, seconds)
                if attempt_dsn is not dsn:
                    _user_dsns[connection] = _without_password(dsn)
                return connection
            except _TryNextAddress as exc:
                errors += str(exc)
            except _TryNextHost as exc:
                errors += str(exc)
                break
            except psycopg2.OperationalError as exc:
                if not errors:
                    raise
                raise psycopg2.OperationalError(errors + str(exc)) from None
    raise psycopg2.OperationalError(errors)


def _resolve(adapter: Adapter, host: Host) -> list[Host]:
    """Return *host* once for each of its addresses, in the resolver's order."""
    if not host.is_name:
        return [host]
    if adapter.current() is None:
        # The module below socket, which is never monkey-patched.
        answers = _socket.getaddrinfo(host.host, None, type=_socket.SOCK_STREAM)
    else:
        answers = adapter.getaddrinfo(host.host)
    return [replace(host, hostaddr=_numeric(*address), resolved=True) for *_, address in answers]


def _numeric(host: str, port: int, flow: int = 0, scope: int = 0) -> str:
    return f"{host}%{scope}" if scope and "%" not in host else host


def _dsn(dsn: str, changes: dict[str, str], address: Host, more: bool) -> str:
    listed = [address, SENTINEL_HOST] if more else [address]
    for name in "host", "hostaddr", "port":
        # Empty ones too: they keep out what is in the environment.
        changes = changes | {name: ",".join(getattr(one, name) for one in listed)}
    changed: str = extensions.make_dsn(dsn, **changes)
    return changed


def _attempt(adapter: Adapter, make: Callable[[str], Any], dsn: str, address: Host, seconds: int | None) -> Any:
    limit: Any = None
    if seconds is not None:
        limit = WaitTimeout(seconds) if adapter.current() is None else adapter.timeout(seconds)
    try:
        with limit or contextlib.nullcontext():
            return make(dsn)
    except psycopg2.OperationalError as exc:
        if exc.pgcode:
            raise  # libpq was done: it is about a query of psycopg2's
        error = _as_blocking(str(exc), dsn, address)
        if SENTINEL_HOST.hostaddr in error:
            reports = re.findall(r".*\n(?:\t.*\n)*", error)
            error = "".join(report for report in reports if SENTINEL_HOST.hostaddr not in report)
            # libpq gives the system's error where it could not connect.
            unreachable = any(known in error for known in _SYSTEM_ERRORS)
            raise (_TryNextAddress if unreachable else _TryNextHost)(error) from None
        if error != str(exc):
            raise psycopg2.OperationalError(error) from None
        raise
    except BaseException as exc:
        if exc is not limit:
            raise
        raise _TryNextAddress(_report(address, "timeout expired")) from None


def _without_password(dsn: str) -> str:
    # psycopg2 writes it the same way.
    hidden: str = extensions.make_dsn(dsn, password="xxx") if "password" in extensions.parse_dsn(dsn) else dsn
    return hidden


def _report(address: Host, why: str) -> str:
    return f"connection to server {address} failed: {why}\n"


def _as_blocking(error: str, dsn: str, address: Host) -> str:
    """Return libpq's *error* about *address* as it is where libpq blocks."""
    if address.is_socket:
        named = re.escape(str(address).partition(" ")[2])
    else:
        named = f'"{re.escape(address.hostaddr or address.host)}"(?=[^"\n]*{address.port})'
    first_line = error.partition("\n")[0]
    if not re.match(f".*{named}", error) and SENTINEL_HOST.hostaddr not in first_line and _is_accepted(dsn):
        # psycopg2 makes the connection non-blocking once it has begun, and
        # there libpq drops the words with which it had begun its report.
        error = f"connection to server {address} failed: {error}"
    if address.resolved:
        # libpq knows of the address alone.
        error = re.sub(named, lambda match: f'"{address.host}" ({address.hostaddr})', error)
    return error


def _is_accepted(dsn: str) -> bool:
    """Whether libpq would go as far as to connect with *dsn*, finding no fault with its parameters."""
    try:
        extensions.connection(_dsn(dsn, {}, SENTINEL_HOST, False), async_=1)
    except psycopg2.Error as exc:
        return SENTINEL_HOST.hostaddr in str(exc)
    raise AssertionError("connected to the broadcast address")
