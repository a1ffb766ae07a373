"""What a green connection adds to psycopg2's, and psycopg2.connect() handing them out.

A user's connection_factory keeps its type: the class of the connection is
made for it by *green_class*, with the resolution order

    the user's classes, GreenConnection, its mixins, psycopg2's connection

so a mixin overrides psycopg2's methods by their names, calls them by super(),
and sets ``__slots__ = ()``. In __init__() a mixin gets what psycopg2's own
would get: the DSN.
"""

import functools
from collections.abc import Callable
from typing import Any

from psycopg2 import extensions

from psycogreen._cursor import GreenCursor
from psycogreen._green import green_class
from psycogreen._guard import refuse


def _guarded(name: str) -> Any:
    """Make psycopg2's connection method *name* raise instead of freezing the thread."""
    method = getattr(extensions.connection, name)

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(self, name)
        return method(self, *args, **kwargs)

    return guarded


class GreenConnection(extensions.connection):  # mixins go before: (Connecting, LargeObjects, extensions.connection)
    """psycopg2's connection, in which no call can stop the hub."""

    # See GreenCursor.
    __slots__ = ()

    commit = _guarded("commit")
    rollback = _guarded("rollback")


def connect(original: Callable[..., Any], dsn: str, connection_factory: Any = None, **kwasync: Any) -> Any:
    """Do what psycopg2._connect() does, with a green connection."""
    if any(kwasync.values()):
        return original(dsn, connection_factory=connection_factory, **kwasync)
    return original(dsn, connection_factory=green_class(connection_factory or extensions.connection, GreenConnection))
