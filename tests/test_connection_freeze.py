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


@pytest.fixture(scope="module")
def reports(dsn: str) -> Any:
    """Return the reports of the calls in a situation, by the calls' names. A call that froze has no report."""
    made: dict[str, dict[str, Any]] = {}

    def reports(situation: str) -> dict[str, Any]:
        if situation not in made:
            by_call = made[situation] = {}
            names = [call.name for call in CALLS]
            while names:
                reports_of_run = run(dsn, situation, names)
                by_call.update(reports_of_run)
                names = names[len(reports_of_run) + 1 :]  # the calls after the one that froze
        return made[situation]

    return reports


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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_no_call_freezes_the_hub(reports: Any, situation: str, call: Call) -> None:
    report = reports(situation).get(call.name)
    assert report is not None, "it froze"
    outcome, query = report["outcome"], report["query"]
    refused = call.outcome.endswith(REFUSED.format(""))
    if situation in ("autocommit", "transaction"):
        assert fnmatch(outcome, call.outcome)
        assert query.startswith(call.query)
    elif situation == "kill":
        assert query == "Killed: killed"
        # These two calls return when the kill is done.
        if call.name not in ("executemany() that began before", "poll()"):
            assert fnmatch(outcome, call.outcome)
    elif situation == "dying":
        # The call closes the connection, and psycopg2 raises an error for that.
        assert query == "Killed: killed"
        assert outcome == ANSWERS or outcome.startswith(
            ("InterfaceError: ", "OperationalError: ", "ProgrammingError: password encryption failed")
        )
    else:
        assert query == "InterfaceError: connection closed by another greenlet"
        if refused or call.name == "connection.close()":
            assert outcome == call.outcome
    assert report["took"] < PAUSE
    assert report["gap"] < PAUSE


def test_all_methods_are_in_the_table() -> None:
    from psycopg2 import extensions

    table = " ".join(call.name for call in CALLS)
    for cls in extensions.connection, extensions.cursor, extensions.ConnectionInfo:
        for name in dir(cls):
            if not name.startswith("__"):
                assert name in table, f"{cls.__name__}.{name}"
