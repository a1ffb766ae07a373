"""A process whose greenlets and threads wait for the server ends at once, with the right status and without a crash."""

import os
import subprocess
import time

import pytest
from hubs import NAME
from support.processes import PROGRAMS, PYTHON, child_environment

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(120)]

# What waits, and how the process ends: one argument of programs/exits.py for each.
WAITS = [
    "in_a_query",
    "in_queries",
    "in_a_fetch",
    "in_a_connect",
    "in_a_copy_to",
    "in_a_copy_from",
    "in_a_files_wait",
    "in_a_large_object",
    "in_a_psycopg_3_query",
    "in_a_thread",
    "in_a_thread_with_a_hub",
    "killed_just_before",
]
WAYS = {
    "leave": 3,
    "returns": 0,
    "exits_in_a_greenlet": 3,
    "exits_in_the_hub": 3,
    "exits_in_a_signal_handler": 3,
    "exits_in_a_wait": 3,
}

# How many of the ways each wait is tried with: over all waits, each way has its turn.
TRIED = int(os.environ.get("PSYCOGREEN_TEST_EXITS", "2"))

# Seconds; a request to cancel may delay the end by one.
AT_ONCE = 5

# What asyncio says of tasks that never end, and of an exit in one.
OF_ASYNCIO = ("Task was destroyed but it is pending", "Task exception was never retrieved")


@pytest.mark.parametrize("wait", WAITS)
def test_a_process_ends_while_something_waits(wait: str, dsn: str) -> None:
    if wait == "in_a_psycopg_3_query":
        pytest.importorskip("psycopg")
    environment = child_environment(DSN=dsn, EVENTLET_NO_GREENDNS="yes")
    command = [*PYTHON, str(PROGRAMS / "exits.py"), wait]
    every = len(WAYS) // TRIED
    for way, status in list(WAYS.items())[WAITS.index(wait) % every :: every]:
        done = subprocess.run([*command, way], capture_output=True, text=True, timeout=60, env=environment)
        ended = time.monotonic()
        assert done.returncode == status, (way, done.stderr)
        word, began = done.stdout.split()
        assert word == "ends"
        assert ended - float(began) < AT_ONCE
        if NAME == "asyncio" and done.stderr.startswith(OF_ASYNCIO):
            continue
        assert not done.stderr, way
