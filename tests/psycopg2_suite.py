"""psycopg2's own tests of what it refuses to do beside a wait callback, on green connections.

``python tests/psycopg2_suite.py`` fetches psycopg2's source with pip (which
asks for pg_config) and runs test_copy.py and test_lobject.py blocking, on
gevent and on eventlet. All that passes blocking must pass green. Name other
modules to run those.

psycopg2's suite is not told that it runs green: it would skip these tests.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

from helpers import helper

MODULES = ["test_copy", "test_lobject"]


def fetch(directory: Path) -> Path:
    """Return the directory that holds the package ``tests`` of the psycopg2 in use."""
    import psycopg2

    version = psycopg2.__version__.split()[0]
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--no-binary=:all:"]
    subprocess.run([*pip, "--no-build-isolation", f"psycopg2=={version}"], cwd=directory, check=True)
    (archive,) = directory.glob("psycopg2-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    (tests,) = directory.glob("psycopg2-*/tests/testutils.py")
    return tests.parent.parent


def run(hub: str, modules: list[str]) -> dict[str, str]:
    """Run *modules* of psycopg2's in this process; return what became of each test."""
    if hub == "gevent":
        import psycogreen.gevent

        psycogreen.gevent.make_psycopg_green()
    elif hub == "eventlet":
        import psycogreen.eventlet

        psycogreen.eventlet.make_psycopg_green()
    outcomes = {}

    class Result(unittest.TestResult):
        def addSuccess(self, test: unittest.TestCase) -> None:
            outcomes[test.id()] = "passed"

        def addFailure(self, test: unittest.TestCase, err: object) -> None:
            outcomes[test.id()] = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]

        addError = addFailure

        def addSkip(self, test: unittest.TestCase, reason: str) -> None:
            outcomes[test.id()] = f"skipped: {reason}"

    unittest.defaultTestLoader.loadTestsFromNames([f"tests.{name}" for name in modules]).run(Result())
    return outcomes


def run_in_process(hub: str, modules: list[str], sources: Path, dsn: str) -> dict[str, str]:
    from psycopg2.extensions import parse_dsn

    parameters = parse_dsn(dsn)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(sources), os.environ.get("PYTHONPATH", "")]),
        "PSYCOPG2_TESTDB": parameters["dbname"],
        "PSYCOPG2_TESTDB_HOST": parameters.get("host", ""),
        "PSYCOPG2_TESTDB_PORT": str(parameters.get("port", "")),
        "PSYCOPG2_TESTDB_USER": parameters.get("user", ""),
    }
    environment = {name: value for name, value in environment.items() if value}
    environment.pop("PSYCOPG2_TEST_GREEN", None)
    inside = [sys.executable, __file__, "--inside", hub, *modules]
    done = subprocess.run(inside, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("modules", nargs="*", default=MODULES, help="test modules of psycopg2 (%(default)s)")
    arguments = parser.parse_args()
    if arguments.inside:
        outcomes = run(arguments.inside, arguments.modules)
        print(json.dumps(outcomes))
        return 0
    worse = 0
    with tempfile.TemporaryDirectory() as directory, helper("pgserver.py") as dsn:
        sources = fetch(Path(directory))
        blocking = run_in_process("none", arguments.modules, sources, dsn)
        passed = {name for name, outcome in blocking.items() if outcome == "passed"}
        print(f"blocking: {len(passed)} of {len(blocking)} passed")
        for hub in "gevent", "eventlet":
            green = run_in_process(hub, arguments.modules, sources, dsn)
            failed = sorted(name for name in passed if green.get(name) != "passed")
            print(f"{hub}: {len(passed) - len(failed)} of those {len(passed)} passed")
            for name in failed:
                print(f"  {name}: {green.get(name)}")
            worse += len(failed)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
