"""Connection parameters as libpq takes them: from the DSN, a service file, the environment and its defaults."""

import ctypes
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg2
from psycopg2 import extensions

from psycogreen._libpq import libpq

# Any value that libpq refuses does. It looks at sslmode only once it has put
# the parameters together, and before it looks for a server.
INVALID_SSLMODE = "psycogreen"

# Where libpq can't be asked; a service file is not read then.
_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}


class _Option(ctypes.Structure):
    """libpq's PQconninfoOption."""

    _fields_ = [
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    ]


@dataclass(frozen=True)
class Host:
    """One place in libpq's list of hosts."""

    host: str
    hostaddr: str
    port: str
    #: *hostaddr* is what *host* resolved to.
    resolved: bool = False

    @property
    def is_socket(self) -> bool:
        """Whether it is a unix socket, abstract ones (``@``) included."""
        return not self.hostaddr and (not self.host or self.host[0] == "@" or os.path.isabs(self.host))

    @property
    def is_name(self) -> bool:
        """Whether *host* must be resolved."""
        if self.hostaddr or self.is_socket:
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    def __str__(self) -> str:
        """What libpq calls it in ``connection to server ... failed``."""
        if self.is_socket:
            return f'on socket "{self.host}/.s.PGSQL.{self.port}"'
        if self.resolved:
            return f'at "{self.host}" ({self.hostaddr}), port {self.port}'
        return f'at "{self.hostaddr or self.host}", port {self.port}'


def parameters(dsn: str) -> dict[str, str] | None:
    """Return the parameters that libpq would use for *dsn*, but for the password.

    None: libpq refuses *dsn*, and says why when asked to connect with it.
    """
    try:
        given: dict[str, str] = extensions.parse_dsn(dsn)
    except psycopg2.Error:
        return None
    try:
        library = libpq()
    except psycopg2.NotSupportedError:
        return {k: os.environ[name] for k, name in _ENVIRONMENT.items() if name in os.environ} | given
    # PQconndefaults() would do if it were not for a service named in the DSN.
    conn = library.PQconnectStart(os.fsencode(extensions.make_dsn(**given | {"sslmode": INVALID_SSLMODE})))
    if not conn:
        return None
    try:
        options = library.PQconninfo(conn)
        if not options:
            return None
        try:
            options_used = dict(_items(options))
        finally:
            library.PQconninfoFree(options)
        if options_used.get("sslmode") != INVALID_SSLMODE:
            return None  # it did not come as far as that, the service is unknown for instance
        if not options_used.get("host") and not options_used.get("hostaddr"):
            options_used["host"] = os.fsdecode(library.PQhost(conn) or b"")
        return options_used
    finally:
        library.PQfinish(conn)


def _items(options: int) -> Iterator[tuple[str, str]]:
    address = options
    while (option := _Option.from_address(address)).keyword is not None:
        keyword = os.fsdecode(option.keyword)
        if option.val is not None and keyword != "password":
            yield keyword, os.fsdecode(option.val)
        address += ctypes.sizeof(_Option)


def hosts(options_used: dict[str, str]) -> list[Host] | None:
    """Return the hosts that *options_used* lists, in its order; None if the numbers don't match.

    See libpq's documentation, "Specifying Multiple Hosts".
    """
    names = options_used.get("host", "").split(",")
    addresses = options_used.get("hostaddr", "").split(",")
    if addresses == [""]:
        addresses *= len(names)
    elif names == [""]:
        names *= len(addresses)
    ports = options_used.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if not len(names) == len(addresses) == len(ports):
        return None
    return [Host(*of_one) for of_one in zip(names, addresses, ports, strict=True)]


def connect_timeout(options_used: dict[str, str]) -> int | None:
    """Return the seconds that libpq gives to one address; None for no limit.

    Raises:
        ValueError: It is not an integer; the message is libpq's.
    """
    text = options_used.get("connect_timeout")
    if text is None:
        return None
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII) or not -(2**31) <= int(text) < 2**31:
        raise ValueError(f'invalid integer value "{text}" for connection option "connect_timeout"')
    seconds = int(text)
    if seconds <= 0:
        return None
    # Until version 16 libpq counted in whole seconds of the clock.
    return seconds if extensions.libpq_version() >= 170000 else max(2, seconds)
