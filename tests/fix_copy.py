"""The outcome of a COPY, to compare blocking and green psycopg2."""

import re
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from support.outcomes import diagnostics


def described(exc: BaseException | None, cursor: Any) -> dict[str, Any]:
    """Return all that a user can see of *exc*."""
    seen: dict[str, Any] = {"class": type(exc), "text": str(exc)}
    if isinstance(exc, psycopg2.Error):
        seen["pgcode"] = exc.pgcode
        seen["pgerror"] = exc.pgerror
        seen["cursor"] = exc.cursor is cursor
        seen["diag"] = diagnostics(exc)
        if (seen["diag"]["schema_name"] or "").startswith("pg_temp_"):
            seen["diag"]["schema_name"] = "pg_temp"  # the schema's name has a number for each session
    return seen


def copy_outcome(connection: Any, copy: Callable[[Any], object], **kwargs: Any) -> dict[str, Any]:
    """Call *copy* with a cursor of *connection*; return the outcome and the state of the connection.

    *kwargs* are for ``connection.cursor()``.
    """
    cursor = connection.cursor(**kwargs)
    raised = None
    returned: Any = None
    try:
        returned = copy(cursor)
    except Exception as exc:
        raised = exc
    seen = described(raised, cursor)
    seen["returned"] = returned
    for name in "rowcount", "query", "description", "lastrowid", "closed", "name":
        seen[name] = getattr(cursor, name)
    # Blocking psycopg2 sets no statusmessage after a COPY. Green it is the server's, as after a query.
    seen["statusmessage"] = re.sub(r"^COPY \d+$", "", cursor.statusmessage or "")
    seen["status"] = connection.status
    seen["lost"] = bool(connection.closed)
    if not connection.closed:
        seen.update(afterwards(connection))
    del raised, cursor
    return seen


def afterwards(connection: Any) -> dict[str, Any]:
    """Return the state of *connection*, as its next queries show it."""
    seen: dict[str, Any] = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            seen["next query"] = cursor.fetchall()
    except psycopg2.Error as exc:
        seen["next query"] = type(exc)
    seen["transaction"] = connection.get_transaction_status()
    connection.rollback()
    seen["notices"] = list(connection.notices)  # last, as blocking psycopg2 gets a COPY's notices with the next query
    seen["rolled back"] = connection.get_transaction_status()
    return seen


@pytest.fixture
def compare(both_ways):
    """Call *copy* on a blocking and on a green connection; the outcomes must be equal.

    *prepare* is called before, with the connection; *copy* gets a cursor. Both are
    called twice, so a file that a test reads must be made in them. The tables that
    *prepare* makes are committed and must be temporary.
    """

    def compare(copy, prepare=None, cursor=None, **kwargs):
        def run(connection):
            if prepare is not None:
                prepare(connection)
            return copy_outcome(connection, copy, **(cursor or {}))

        return both_ways(run, **kwargs)

    return compare
