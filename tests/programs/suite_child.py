"""Runs a framework's own test suite, in a process of its own that framework_suites.py starts.

``suite_child.py HUB LOOP OUTCOMES PROGRAM ARGUMENTS...`` runs PROGRAM (a
file, or a module's name) as ``python PROGRAM ARGUMENTS...`` would. HUB is gevent,
eventlet or blocking. LOOP is the expected value of psycogreen.implementation. The
file OUTCOMES gets a line of JSON for each event of a test at once, so that it is
complete if the run hangs.
"""

import os
import sys

hub, loop, outcomes, *sys.argv = sys.argv[1:]
if hub != "blocking":
    os.environ["PSYCOGREEN_TEST_HUB"] = hub
    import patched  # noqa: F401

    import psycogreen

    assert psycogreen.implementation == loop, psycogreen.__file__

import faulthandler  # noqa: E402
import json  # noqa: E402
import runpy  # noqa: E402
import unittest  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

# A test that has not ended after so many seconds hangs.
LIMIT = 120


def record(path: str) -> None:
    """Make unittest write the outcome of each test to *path*."""
    news = open(path, "w", buffering=1)  # noqa: SIM115
    # Some tests run other tests, with a result of their own, which is not recorded.
    results: list[unittest.TestResult] = []

    def note(method: str, outcome: str) -> None:
        original = getattr(unittest.TestResult, method)

        def noting(self: Any, test: Any, *args: Any) -> Any:
            if not results:
                results.append(self)
            if self is results[0]:
                faulthandler.dump_traceback_later(LIMIT, exit=True)
                news.write(json.dumps([test.id(), outcome]) + "\n")
            return original(self, test, *args)

        setattr(unittest.TestResult, method, noting)

    note("startTest", "failed")  # until another outcome is recorded
    note("addSuccess", "passed")
    for method in "addFailure", "addError", "addUnexpectedSuccess":
        note(method, "failed")
    for method in "addSkip", "addExpectedFailure":
        note(method, "skipped")


record(outcomes)
program: str = sys.argv[0]
run: Callable[..., Any] = runpy.run_path if program.endswith(".py") else runpy.run_module
sys.path[0] = os.path.dirname(os.path.abspath(program)) if program.endswith(".py") else os.getcwd()
run(program, run_name="__main__")
