"""Connection parameters as libpq collects them: from the DSN, a service file, the environment and its defaults."""

import _socket
import functools
import os
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import extensions

from psycogreen._libpq import libpq

# A value that libpq refuses. libpq checks sslmode after it has collected the parameters
# and before it looks for a server. So PQconnectStart() with it connects to nothing.
INVALID_SSLMODE = "psycogreen"

# The dictionary inside os.environ. os.environ itself encodes and decodes, and raises and
# catches an exception for each variable that is not set: a third of a connect's cost.
_environ: Any = getattr(os.environ, "_data", os.environ)
_key: Callable[[str], Any] = getattr(os.environ, "encodekey", str)
_SERVICE = _key("PGSERVICE")

# The parameters that decide where and how to connect, and libpq's environment
# variables for them.
_VARIABLES = [
    ("host", _key("PGHOST")),
    ("hostaddr", _key("PGHOSTADDR")),
    ("port", _key("PGPORT")),
    ("connect_timeout", _key("PGCONNECT_TIMEOUT")),
    ("target_session_attrs", _key("PGTARGETSESSIONATTRS")),
    ("load_balance_hosts", _key("PGLOADBALANCEHOSTS")),
]
_KEYS = frozenset([_SERVICE, *(variable for _, variable in _VARIABLES)])


class Host:
    """One entry of libpq's list of hosts.

    Attributes:
        host: A name, an address, the directory of a unix socket, or "".
        hostaddr: The parameter hostaddr, or "". It overrides *host* as the address.
        port: The port.
        resolved: Whether *hostaddr* comes from resolving *host*.
    """

    __slots__ = ("host", "hostaddr", "port", "resolved")

    def __init__(self, host: str, hostaddr: str, port: str, resolved: bool = False) -> None:
        self.host = host
        self.hostaddr = hostaddr
        self.port = port
        self.resolved = resolved

    @property
    def is_socket(self) -> bool:
        """Whether this is a unix socket. An abstract one begins with ``@``."""
        return not self.hostaddr and (not self.host or self.host[0] == "@" or os.path.isabs(self.host))

    @property
    def is_name(self) -> bool:
        """Whether *host* must be resolved."""
        return not (self.hostaddr or self.is_socket or _is_address(self.host))

    def __str__(self) -> str:
        """Return the words for this host in libpq's message ``connection to server ... failed``."""
        if self.is_socket:
            return f'on socket "{self.host}/.s.PGSQL.{self.port}"'
        if self.resolved:
            return f'at "{self.host}" ({self.hostaddr}), port {self.port}'
        return f'at "{self.hostaddr or self.host}", port {self.port}'


def _is_address(host: str) -> bool:
    for family, address in (_socket.AF_INET, host), (_socket.AF_INET6, host.partition("%")[0]):
        try:
            _socket.inet_pton(family, address)
        except OSError:
            pass
        else:
            return True
    return False


def parameters(dsn: str) -> dict[str, str] | None:
    """Return the parameters in _VARIABLES that libpq would use for *dsn*.

    Return None if libpq refuses *dsn*: a connect with *dsn* then raises libpq's error.
    The key "service" is there if some values may come from a service file.
    """
    try:
        given: dict[str, str] = extensions.parse_dsn(dsn)
    except psycopg2.Error:
        return None
    # A service file overrides the environment, and the DSN overrides both. Only libpq can find that file.
    if "service" in given or _SERVICE in _environ:
        try:
            used = _ask(libpq(), given)
            return None if used is None else used | {"service": ""}
        except psycopg2.NotSupportedError:
            pass
    used = {}
    for name, variable in _VARIABLES:
        if name in given:
            used[name] = given[name]
        elif variable in _environ:
            used[name] = os.fsdecode(_environ[variable])
    if "port" not in used:
        used["port"] = _defaults()[1]
    return used


# The result of _settings(), and connect_timeout() by the hash of a DSN. Not by the DSN,
# which may contain a password. libpq gets these DSNs unchanged: if two DSNs had the same
# hash, only the timeout would be wrong.
_direct: tuple[tuple[Any, ...], dict[int, int | None]] = ((), {})
_MAX_DIRECT = 1000


def _settings() -> tuple[Any, ...]:
    """Return the values of all variables in _KEYS, to compare."""
    # isdisjoint() with a set looks up the set's members only.
    return () if _environ.keys().isdisjoint(_KEYS) else tuple(map(_environ.get, _KEYS))


def add_direct(dsn: str, seconds: int | None) -> None:
    """Remember that libpq can connect with *dsn* as it is, within *seconds*: its only host needs no resolving."""
    global _direct
    settings = _settings()
    if settings != _direct[0] or len(_direct[1]) >= _MAX_DIRECT:
        _direct = settings, {}
    _direct[1][hash(dsn)] = seconds


def direct_timeout(dsn: str) -> int | None:
    """Return the seconds that add_direct() stored for *dsn*; None for no limit.

    Raises:
        KeyError: add_direct() stored nothing, or the environment has changed since.
    """
    settings, timeouts = _direct
    if settings != _settings():
        raise KeyError
    return timeouts[hash(dsn)]


def _ask(library: Any, given: dict[str, str]) -> dict[str, str] | None:
    """Return the parameters in _VARIABLES as libpq itself collects them; None if it refuses them."""
    import ctypes

    # Not PQconndefaults(), which does not know a service named in the DSN.
    dsn = extensions.make_dsn(**given | {"sslmode": INVALID_SSLMODE})
    conn = library.PQconnectStart(os.fsencode(dsn))
    try:
        options = conn and library.PQconninfo(conn)
        if not options:
            return None
        wanted = {name.encode() for name, _ in _VARIABLES} | {b"sslmode"}
        used = {}
        try:
            # An array of PQconninfoOption. Each is six pointers to strings (the first
            # is the keyword, the fourth the value) and an integer.
            address, size = options, 7 * ctypes.sizeof(ctypes.c_void_p)
            while (keyword := ctypes.c_char_p.from_address(address).value) is not None:
                if keyword in wanted:
                    value = ctypes.c_char_p.from_address(address + 3 * ctypes.sizeof(ctypes.c_void_p)).value
                    if value is not None:
                        used[keyword.decode()] = os.fsdecode(value)
                address += size
        finally:
            library.PQconninfoFree(options)
    finally:
        library.PQfinish(conn)
    if used.pop("sslmode", None) != INVALID_SSLMODE:
        return None  # libpq stopped before it checked sslmode: the service is unknown, for instance
    return used


@functools.cache
def _defaults() -> tuple[str, str]:
    """Return the default host and port that are compiled into libpq."""
    try:
        library = libpq()
    except psycopg2.NotSupportedError:
        return "", "5432"
    # Empty parameters override the environment.
    conn = library.PQconnectStart(f"host='' hostaddr='' port='' sslmode={INVALID_SSLMODE}".encode())
    try:
        return os.fsdecode(library.PQhost(conn) or b""), os.fsdecode(library.PQport(conn) or b"5432")
    finally:
        library.PQfinish(conn)


def hosts(used: dict[str, str]) -> list[Host] | None:
    """Return the hosts in the parameters *used*, in order; None if host, hostaddr and port differ in length.

    See libpq's documentation, "Specifying Multiple Hosts".
    """
    host, hostaddr, port = used.get("host", ""), used.get("hostaddr", ""), used.get("port", "")
    if not host and not hostaddr:
        host = _defaults()[0]
    if "," not in host and "," not in hostaddr and "," not in port:
        return [Host(host, hostaddr, port)]
    names = host.split(",")
    addresses = hostaddr.split(",")
    if addresses == [""]:
        addresses *= len(names)
    elif names == [""]:
        names *= len(addresses)
    ports = port.split(",")
    if len(ports) == 1:
        ports *= len(names)
    if not len(names) == len(addresses) == len(ports):
        return None
    return [Host(*of_one) for of_one in zip(names, addresses, ports, strict=True)]


def connect_timeout(used: dict[str, str]) -> int | None:
    """Return the seconds after which libpq gives up on one address; None for no limit.

    Raises:
        ValueError: connect_timeout is not an integer; the message is libpq's.
    """
    text = used.get("connect_timeout")
    if text is None:
        return None
    import re

    if not re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII) or not -(2**31) <= int(text) < 2**31:
        raise ValueError(f'invalid integer value "{text}" for connection option "connect_timeout"')
    seconds = int(text)
    if seconds <= 0:
        return None
    # libpq 16 and earlier count whole seconds, and raise 1 to 2.
    return seconds if extensions.libpq_version() >= 170000 else max(2, seconds)
