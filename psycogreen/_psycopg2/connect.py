"""Connecting without stopping the hub, with the outcome of blocking libpq.

In non-blocking mode libpq leaves two things to its caller: to resolve names
beforehand, and to give up on an address after connect_timeout (libpq's
documentation, PQconnectPoll). So this module resolves names through the hub, and
gives libpq one address after the other, each under a timeout of the hub's. Whether a
failure means "try the next" or "stop" is still libpq's decision.
"""

import _socket
import contextvars
import errno
import functools
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import psycopg2
from psycopg2 import extensions

from psycogreen._adapter import Adapter
from psycogreen._libpq.conninfo import Host, add_direct, connect_timeout, direct_timeout, hosts, parameters
from psycogreen._waiting import WaitTimeout

# The second host in each DSN for libpq, where another address remains to be tried.
# A connect to the broadcast address fails at once. If libpq has tried it, then
# libpq would have tried the next address. After a wrong password it does not.
SENTINEL_HOST = Host("", "255.255.255.255", "1")

# The parameters that connect() changes before libpq gets them.
_REWRITTEN = ("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts")

_psycopg: Any = extensions.connection


class _Request(NamedTuple):
    """The user's parameters beside those that libpq got. Both DSNs are without the password, as psycopg2 shows them."""

    libpq_dsn: str
    dsn: str
    parameters: dict[str, str]  # the user's; only those in _REWRITTEN matter


# The request for which this greenlet connects. The constructor of a user's class may
# read the parameters before connect() can store the request in the connection.
_current_request: contextvars.ContextVar[_Request | None] = contextvars.ContextVar(
    "psycogreen_connect_request", default=None
)


class Connecting(_psycopg):  # type: ignore[misc]
    """Mixin of the green connection: it shows the user's parameters in place of those that libpq got."""

    __slots__ = ()

    _green_request: _Request | None = None

    def _green_requested(self) -> _Request | None:
        request = self._green_request or _current_request.get()
        # The DSNs differ where the constructor of a user's class makes another connection.
        return request if request and request.libpq_dsn == _psycopg.dsn.__get__(self) else None

    @property
    def dsn(self) -> str:
        """See psycopg2."""
        request = self._green_requested()
        dsn: str = request.dsn if request else _psycopg.dsn.__get__(self)
        return dsn

    @property
    def info(self) -> Any:
        """See psycopg2."""
        return _ConnectionInfo(self) if self._green_requested() else _psycopg.info.__get__(self)

    def get_dsn_parameters(self) -> dict[str, str]:
        """See psycopg2."""
        parameters: dict[str, str] = super().get_dsn_parameters()
        return _as_requested(parameters, self._green_requested())

    def __repr__(self) -> str:
        request = self._green_requested()
        text: str = super().__repr__().replace("<connection", "<green connection", 1)
        return text.replace(request.libpq_dsn, request.dsn) if request else text


class _ConnectionInfo(extensions.ConnectionInfo):  # type: ignore[misc]
    """psycopg2's ConnectionInfo with the user's parameters."""

    def __init__(self, connection: Connecting) -> None:
        super().__init__(connection)
        self._request = connection._green_requested()

    @property
    def dsn_parameters(self) -> dict[str, str]:
        """See psycopg2."""
        return _as_requested(super().dsn_parameters, self._request)


def _as_requested(parameters: dict[str, str], request: _Request | None) -> dict[str, str]:
    if request:
        for name in _REWRITTEN:
            if name in request.parameters:
                parameters[name] = request.parameters[name]
            else:
                parameters.pop(name, None)
    return parameters


class _TryNextAddress(Exception):
    """Connecting to the address failed or timed out: libpq would try the next address."""


class _TryNextHost(Exception):
    """The server is not of the wanted kind or not ready: libpq would skip its other addresses."""


def connect(adapter: Adapter, make: Callable[[str], Any], dsn: str) -> Any:
    """Connect with *dsn*, as blocking libpq would.

    See libpq's documentation, "Parameter Key Words", for connect_timeout,
    target_session_attrs and load_balance_hosts. connect_timeout is rounded as
    psycopg2's libpq rounds it. Unlike libpq's, it covers psycopg2's own queries on
    the new connection too.

    Args:
        adapter: The coroutine library.
        make: A function that makes psycopg2's connection for a DSN, through the
            wait callback. It is called for one address after the other, and must
            leave nothing open when it fails.
        dsn: The connection string, with the keywords of psycopg2.connect().

    Returns:
        What *make* returned.

    Raises:
        psycopg2.OperationalError: No host accepted the connection. The message
            names each attempt.
    """
    try:
        seconds = direct_timeout(dsn)
    except KeyError:
        pass
    else:
        return _attempt_direct(adapter, make, dsn, seconds)
    used = parameters(dsn)
    listed_hosts = hosts(used) if used else None
    if not used or not listed_hosts:
        return make(dsn)  # libpq refuses the DSN with its own message
    try:
        seconds = connect_timeout(used)
    except ValueError as exc:
        raise psycopg2.OperationalError(_report(listed_hosts[0], str(exc))) from None
    balance = used.get("load_balance_hosts") == "random"
    prefer_standby = used.get("target_session_attrs") == "prefer-standby"
    first = listed_hosts[0]
    if len(listed_hosts) == 1 and not (balance or prefer_standby or first.is_name):
        if "service" not in used:  # the service file may change
            add_direct(dsn, seconds)
        return _attempt_direct(adapter, make, dsn, seconds)

    changes = {}
    if balance:
        random.shuffle(listed_hosts)
        changes["load_balance_hosts"] = "disable"
    attempts = [(host, changes) for host in listed_hosts]
    if prefer_standby:
        attempts = [
            (host, changes | {"target_session_attrs": wanted}) for wanted in ("standby", "any") for host in listed_hosts
        ]
    shown_dsn = _without_password(dsn)

    errors = ""
    for i, (host, changes) in enumerate(attempts, 1):
        try:
            addresses = _resolve(adapter, host)
        except (_socket.gaierror, UnicodeError) as exc:  # UnicodeError: IDNA can't encode the name
            why = getattr(exc, "strerror", None) or exc
            errors += f'could not translate host name "{host.host}" to address: {why}\n'
            continue
        if balance:
            random.shuffle(addresses)
        for j, address in enumerate(addresses, 1):
            more = i < len(attempts) or j < len(addresses)
            libpq_dsn = _dsn(dsn, changes, address, more)
            request = _Request(_without_password(libpq_dsn), shown_dsn, used)
            try:
                _current_request.set(request)
                try:
                    connection = _attempt(adapter, make, libpq_dsn, address, seconds)
                finally:
                    _current_request.set(None)
                if isinstance(connection, Connecting):
                    connection._green_request = request  # type: ignore[misc]  # green connections have no __slots__
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
    """Return one `Host` for each address of *host*, in the resolver's order.

    Raises:
        socket.gaierror: *host* can't be resolved, perhaps because no descriptor is free.
        UnicodeError: IDNA can't encode the name.
    """
    if not host.is_name:
        return [host]
    try:
        if adapter.current() is None:
            # Monkey-patching replaces socket.getaddrinfo(), but not this one.
            answers = _socket.getaddrinfo(host.host, None, type=_socket.SOCK_STREAM)
        else:
            answers = adapter.getaddrinfo(host.host)
    except OSError as exc:
        # Other errors may be somebody's, thrown into this greenlet.
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise _socket.gaierror(_socket.EAI_SYSTEM, exc.strerror) from None
    return [Host(host.host, _numeric(*address), host.port, resolved=True) for *_, address in answers]


def _numeric(host: str, port: int, flow: int = 0, scope: int = 0) -> str:
    return f"{host}%{scope}" if scope and "%" not in host else host


def _dsn(dsn: str, changes: dict[str, str], address: Host, more: bool) -> str:
    listed = [address, SENTINEL_HOST] if more else [address]
    for name in "host", "hostaddr", "port":
        # Also empty values: they override the environment.
        changes = changes | {name: ",".join(getattr(one, name) for one in listed)}
    changed: str = extensions.make_dsn(dsn, **changes)
    return changed


def _attempt_direct(adapter: Adapter, make: Callable[[str], Any], dsn: str, seconds: int | None) -> Any:
    """Connect with *dsn* as it is: it has a single host, which needs no resolving."""
    try:
        return _attempt(adapter, make, dsn, None, seconds)
    except _TryNextAddress as exc:
        raise psycopg2.OperationalError(str(exc)) from None


def _attempt(adapter: Adapter, make: Callable[[str], Any], dsn: str, address: Host | None, seconds: int | None) -> Any:
    """Connect with *dsn* to *address*, within *seconds* if that is not None.

    *address* is the first host in *dsn*. It may be None where *dsn* has a single
    host: then it is looked up only for an error message.

    Raises:
        _TryNextAddress, _TryNextHost: It failed, and libpq would go on.
        psycopg2.OperationalError: It failed, and libpq would stop.
    """
    if seconds is None:
        try:
            return make(dsn)
        except psycopg2.OperationalError as exc:
            _raise_as_blocking(exc, dsn, address or _only_host(dsn))
    limit: Any = WaitTimeout(seconds) if adapter.current() is None else adapter.timeout(seconds)
    try:
        with limit:
            return make(dsn)
    except psycopg2.OperationalError as exc:
        _raise_as_blocking(exc, dsn, address or _only_host(dsn))
    except BaseException as exc:
        if exc is not limit:
            raise
        raise _TryNextAddress(_report(address or _only_host(dsn), "timeout expired")) from None


def _only_host(dsn: str) -> Host:
    listed_hosts = hosts(parameters(dsn) or {})
    assert listed_hosts
    return listed_hosts[0]


def _raise_as_blocking(exc: Exception, dsn: str, address: Host) -> NoReturn:
    """Raise the error of an attempt to connect to *address*, with the message of blocking libpq.

    *exc* is the error that non-blocking libpq gave.

    Raises:
        _TryNextAddress, _TryNextHost: libpq would go on.
        psycopg2.OperationalError: libpq would stop.
    """
    error = str(exc)
    if getattr(exc, "pgcode", None):
        raise exc  # libpq had connected: a query of psycopg2's failed
    sentinel_report = _sentinel_report(dsn)
    # A server's message may contain any address, but only libpq's report about the
    # sentinel comes last.
    went_on = SENTINEL_HOST.hostaddr in dsn and sentinel_report and error.endswith(sentinel_report)
    if went_on:
        error = error.removesuffix(sentinel_report)
    error = _as_blocking(error, address, refused=not sentinel_report)
    if went_on:
        # Where libpq could not connect, its report ends with the system's error.
        unreachable = any(line.endswith(_system_errors()) for line in error.splitlines())
        raise (_TryNextAddress if unreachable else _TryNextHost)(error) from None
    if error != str(exc):
        raise psycopg2.OperationalError(error) from None
    raise exc


@functools.cache
def _system_errors() -> tuple[str, ...]:
    return tuple(os.strerror(code) for code in errno.errorcode)


def _without_password(dsn: str) -> str:
    # psycopg2 hides the password in the same way.
    hidden: str = extensions.make_dsn(dsn, password="xxx") if "password" in extensions.parse_dsn(dsn) else dsn
    return hidden


def _report(address: Host, why: str) -> str:
    return f"connection to server {address} failed: {why}\n"


def _as_blocking(error: str, address: Host, refused: bool) -> str:
    """Return the message of blocking libpq for non-blocking libpq's *error* about *address*.

    *refused*: libpq refused the parameters and did not try to connect.
    """
    import re

    # Only the first quoted text of a line: a later one may be part of a server's message.
    if address.is_socket:
        named = f"({re.escape(str(address).partition(' ')[2])})"
    else:
        named = f'("{re.escape(address.hostaddr or address.host)}")(?=[^"\n]*{address.port})'
    named = f'(?m)^([^"\n]*){named}'
    if not refused and not re.match(named, error):
        # libpq begins its report in PQconnectStart(). Then psycopg2 makes the
        # connection non-blocking, and libpq drops that beginning.
        error = f"connection to server {address} failed: {error}"
    if address.resolved:
        # libpq got the address without the name.
        error = re.sub(named, lambda match: f'{match[1]}"{address.host}" ({address.hostaddr})', error)
    return error


def _sentinel_report(dsn: str) -> str:
    """Return libpq's report about the sentinel, or "" if libpq refuses other parameters of *dsn*."""
    try:
        extensions.connection(_dsn(dsn, {}, SENTINEL_HOST, False), async_=1)
    except psycopg2.Error as exc:
        report = str(exc)
        # Without a system's error, the report is about a parameter.
        tried = any(line.endswith(_system_errors()) for line in report.splitlines())
        return report if tried and SENTINEL_HOST.hostaddr in report else ""
    raise AssertionError("connected to the broadcast address")
