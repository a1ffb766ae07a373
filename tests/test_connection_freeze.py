"""No call on a connection stops the hub while another greenlet uses it: the table of freeze_table.py.

A call that stops the hub would stop the tests too. So a program in a process of its own
makes the calls, and is killed when it prints nothing for too long.
"""

import json
import select
import sys
from fnmatch import fnmatch
from typing import Any

import pytest
from freeze_table import ANSWERS, CALLS, REFUSED, SITUATIONS, Call
from support.processes import TESTS, running

pytestmark = pytest.mark.heavy

# Seconds without output after which the program counts as frozen.
WATCHDOG = 10

# A pause of the hub, in seconds, that counts as stopping it.
PAUSE = 0.05


def run(dsn: str, situation: str, names: list[str]) -> dict[str, Any]:
    reports = {}
    with running([sys.executable, TESTS / "freeze_table.py", dsn, situation, *names], bufsize=1) as process:
        assert process.stdout
        for _ in names:
            ready, _, _ = select.select([process.stdout], [], [], WATCHDOG)
            line = process.stdout.readline() if ready else ""
            if not line:
                break
            report = json.loads(line)
            reports[report["call"]] = report
    return reports


def is_right(situation: str, call: Call, report: dict[str, Any]) -> bool:
    """Return whether *call* and the other greenlet's query ended as they must, and stopped nothing."""
    outcome, query = report["outcome"], report["query"]
    refused = call.outcome.endswith(REFUSED.format(""))
    if situation in ("autocommit", "transaction"):
        right = fnmatch(outcome, call.outcome) and query.startswith(call.query)
    elif situation == "kill":
        # These two calls return when the kill is done.
        any_outcome = call.name in ("executemany() that began before", "poll()")
        right = query == "Killed: killed" and (any_outcome or fnmatch(outcome, call.outcome))
    elif situation == "dying":
        # The call closes the connection, and psycopg2 raises an error for that.
        right = query == "Killed: killed" and (
            outcome == ANSWERS
            or outcome.startswith(
                ("InterfaceError: ", "OperationalError: ", "ProgrammingError: password encryption failed")
            )
        )
    else:
        right = query == "InterfaceError: connection closed by another greenlet" and (
            outcome == call.outcome or not (refused or call.name == "connection.close()")
        )
    return right and report["took"] < PAUSE and report["gap"] < PAUSE


# One test for all calls: as tests of their own, they take three times as long.
@pytest.mark.timeout(120)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_no_call_freezes_the_hub(dsn: str, situation: str) -> None:
    reports: dict[str, Any] = {}
    names = [call.name for call in CALLS]
    while names:
        reports_of_run = run(dsn, situation, names)
        reports |= reports_of_run
        names = names[len(reports_of_run) + 1 :]  # the calls after the one that froze
    frozen = [call.name for call in CALLS if call.name not in reports]
    assert not frozen
    wrong = {call.name: reports[call.name] for call in CALLS if not is_right(situation, call, reports[call.name])}
    assert not wrong


def test_all_methods_are_in_the_table() -> None:
    from psycopg2 import extensions

    table = " ".join(call.name for call in CALLS)
    for cls in extensions.connection, extensions.cursor, extensions.ConnectionInfo:
        for name in dir(cls):
            if not name.startswith("__"):
                assert name in table, f"{cls.__name__}.{name}"
