"""What a green cursor adds to psycopg2's."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from psycopg2 import extensions

from psycogreen._psycopg2.copy import CopyCursor
from psycogreen._psycopg2.exclusive import check_free
from psycogreen._psycopg2.factories import overridden


class GreenCursor(CopyCursor, extensions.cursor):  # type: ignore[misc]
    """psycopg2's cursor, in which no call can stop the hub.

    What is not here needs no help: psycopg2 itself raises ProgrammingError
    from execute(), callproc() and all of a named cursor's methods while a
    query is under way on the connection.
    """

    # Nothing is stored in the objects: so this goes with any class a user
    # brings, and cursors stay as small as psycopg2's.
    __slots__ = ()

    _green_for = extensions.cursor

    @staticmethod
    def _green_wrappers(factory: type) -> dict[str, Any]:
        """Return what the green class for *factory* puts in the place of the methods of *factory*.

        These may call psycopg2's by their full name.
        """
        executemany = overridden(factory, "executemany")
        if executemany is None:
            return {}

        @functools.wraps(executemany)
        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            check_free(self.connection, "executemany")
            return executemany(self, *args, **kwargs)

        return {"executemany": guarded}

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> None:
        """See psycopg2.

        Raises:
            psycopg2.ProgrammingError: Another greenlet executes a query on
                the connection, at first or when *vars_list* has given an item.
        """
        check_free(self.connection, "executemany")
        super().executemany(query, _guarded(self.connection, iter(vars_list)))


def _guarded(conn: Any, items: Iterator[Any]) -> Iterator[Any]:
    # A generator of the user's may wait, and meanwhile another greenlet use
    # the connection.
    for item in items:
        check_free(conn, "executemany")
        yield item


class DefaultCursor(GreenCursor):
    """What a connection makes whose cursor_factory was not set: told apart from one that was set to psycopg2's."""

    __slots__ = ()

    _green_for = None
