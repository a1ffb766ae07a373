"""A child process takes no byte of an answer from its parent."""

import os
import sys

import pytest
from hubs import NAME
from support.processes import run_program

# How many forks; 200 for a thorough run.
FORKS = os.environ.get("PSYCOGREEN_TEST_FORKS", "15")


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
@pytest.mark.timeout(240)
def test_forks_beside_mixed_work_lose_nothing(dsn: str) -> None:
    assert run_program("fork_mixed_work", FORKS, timeout=200, DSN=dsn) == "0 []"


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
@pytest.mark.parametrize("handler", ["late", "early"])
@pytest.mark.timeout(240)
def test_forks_in_the_middle_of_operations_take_nothing(dsn: str, handler: str) -> None:
    assert run_program("fork_in_operations", handler, timeout=200, DSN=dsn) == "0 []"


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
def test_forks_beside_psycopg_3_take_nothing(dsn: str) -> None:
    pytest.importorskip("psycopg")
    assert run_program("psycopg3_forks", DSN=dsn) == "0 []"


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")
@pytest.mark.parametrize(("method", "outcome"), [("close", "closed"), ("rollback", "ProgrammingError")])
def test_child_uses_a_connection_in_a_query_of_the_parent(dsn: str, method: str, outcome: str) -> None:
    assert run_program("fork_then_end", method, DSN=dsn) == outcome
