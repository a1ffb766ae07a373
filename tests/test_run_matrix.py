"""run_matrix.py reports tests that are slow, fail or are flaky."""

import sys
from pathlib import Path

import pytest
import run_matrix

pytestmark = pytest.mark.once

TESTS = """
import os, pathlib, time, pytest

before = pathlib.Path(__file__).with_suffix(".before")

def test_that_is_slow():
    time.sleep(0.5)

def test_that_is_flaky():
    if not before.exists():
        before.touch()
        {failure}

def test_that_fails():
    assert not {fails}

@pytest.mark.skip
def test_that_is_skipped():
    pass
"""


@pytest.fixture
def lines(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run a sample of tests; return the lines that the runner printed, and its exit status."""
    # The sample uses no server. The runner would start two if none were named.
    monkeypatch.setenv("PSYCOGREEN_TEST_DSN", dsn)
    monkeypatch.setenv("PSYCOGREEN_TEST_TLS_DSN", dsn)
    monkeypatch.setattr(run_matrix, "combinations", lambda *chosen: [("the run", {}, "")])

    def lines(failure: str, fails: bool) -> tuple[list[str], int]:
        sample = tmp_path / "test_sample.py"
        sample.write_text(TESTS.format(failure=failure, fails=fails))
        monkeypatch.setattr(sys, "argv", ["run_matrix.py", "--pure", str(sample)])
        status = run_matrix.main()
        return capsys.readouterr().out.splitlines(), status

    return lines


def test_failures_flaky_tests_and_the_slowest_are_named(lines) -> None:
    printed, status = lines(failure="raise ValueError", fails=True)
    flaky, number, failed, total = printed[-4:]
    assert flaky.startswith("flaky: the run: ") and flaky.endswith("test_sample.py::test_that_is_flaky")
    assert failed.startswith("failed: the run: ") and failed.endswith("test_sample.py::test_that_fails")
    assert [number, total] == ["1 flaky: failed at first, and passed alone", "2 passed, 1 failed, 1 skipped"]
    assert status == 1
    slowest = printed[printed.index("=== the 15 slowest tests") + 1]
    assert slowest.endswith("test_sample.py::test_that_is_slow")


def test_a_run_that_crashes_is_repeated_and_named_as_flaky(lines) -> None:
    printed, status = lines(failure="os._exit(3)", fails=False)
    assert printed[-3:] == [
        "flaky: the run: the run itself, status 3",
        "1 flaky: failed at first, and passed alone",
        "3 passed, 0 failed, 1 skipped",
    ]
    assert status == 0
