"""Run the suite once for each combination of loop and hub.

``python tests/run_matrix.py`` runs {compiled, pure} x {gevent, eventlet} in
full. With the compiled loop, the tests marked "core", "hub" or "library" and not "heavy"
run on asyncio and uvloop, and of these only "hub" on gevent's other loops and eventlet's
other hubs. With the pure loop, those marked "core" run on asyncio. The tests marked
"once" are a run of their own. Those marked "one_loop" run with one of the two loops.
``--core`` runs only the tests marked "core", on the four combinations and with
one loop on asyncio.
``--all`` runs the whole suite on the other loops and hubs too, except the tests
marked "heavy".
``--pure`` leaves the compiled loop out.
``--only TITLE`` runs one of these combinations.
Further arguments go to pytest.

A test that failed runs again, alone; if it passes then, it counts as passed and
is named as flaky. Ends with status 1 if a test failed twice. The last line has
the numbers.
"""

import argparse
import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from xml.etree import ElementTree

from support.postgres import server, system_server

TESTS = Path(__file__).parent
# In gevent's debug mode these loops warn of a watcher that was not closed, and
# a warning fails the test. libuv goes on writing to the memory of such a watcher.
OTHER_LOOPS = [("gevent", {"GEVENT_LOOP": name, "GEVENT_DEBUG": "debug"}) for name in ("libuv-cffi", "libev-cffi")]
OTHER_HUBS = [("eventlet", {"EVENTLET_HUB": name}) for name in ("poll", "selects", "asyncio")]
ASYNCIO = [("asyncio", {"PSYCOGREEN_TEST_LOOP": name}) for name in ("asyncio", "uvloop")]

# pytest's exit status when no test is selected.
NOTHING_COLLECTED = 5

# How many of the slowest tests are named at the end.
SLOWEST = 15


@dataclass
class Result:
    """What pytest reports of one run."""

    passed: int = 0
    skipped: int = 0
    #: The tests that failed.
    failed: set[str] = field(default_factory=set)
    #: How long each test took, with its fixtures.
    seconds: dict[str, float] = field(default_factory=dict)
    #: Whether pytest came to its end and reported.
    complete: bool = True

    def __str__(self) -> str:
        return f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped"


def combinations(core: bool, pure_only: bool, everything: bool) -> list[tuple[str, dict[str, str], str]]:
    """Return a title, the environment and the chosen marks for each run, the long ones first."""
    runs = []
    loops = ["pure"] if pure_only else ["compiled", "pure"]

    def add(loop: str, hub: str, marks: str, **chosen: str) -> None:
        environment = {"PSYCOGREEN_TEST_HUB": hub, "PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "pure" else ""}
        title = f"{loop} on {hub}" + "".join(f" ({name})" for name in list(chosen.values())[:1])
        runs.append((title, environment | chosen, marks))

    for loop in loops:
        for hub in "gevent", "eventlet":
            marks = "not once" if loop == loops[0] else "not once and not one_loop"
            add(loop, hub, "core" if core else marks)
    # The compiled loop in full runs on asyncio below.
    add(loops[0] if core else "pure", "asyncio", "core")
    if core:
        return runs
    title, environment, _ = runs[0]
    runs.insert(0, (f"once, {title}", environment, "once"))
    if not pure_only:
        for hub, chosen in ASYNCIO + OTHER_LOOPS + OTHER_HUBS:
            chosen_tests = "(core or hub or library) and " if hub == "asyncio" else "hub and "
            add("compiled", hub, f"{'' if everything else chosen_tests}not once and not heavy", **chosen)
    return runs


class Servers(ExitStack):
    """The servers that the environment does not name: a set for each of the runs side by side.

    They are not shared, because some tests end all sessions of theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle: SimpleQueue[dict[str, str]] = SimpleQueue()

    @contextmanager
    def borrowed(self) -> Iterator[dict[str, str]]:
        """Yield the variables that name a set of servers, which no other run uses until the end of the block."""
        try:
            variables = self._idle.get_nowait()
        except Empty:
            variables = self._start()
        yield variables
        self._idle.put(variables)

    def _start(self) -> dict[str, str]:
        variables = {}
        if not os.environ.get("PSYCOGREEN_TEST_DSN"):
            variables["PSYCOGREEN_TEST_DSN"] = self.enter_context(server())
        if not os.environ.get("PSYCOGREEN_TEST_TLS_DSN") and system_server():
            variables["PSYCOGREEN_TEST_TLS_DSN"] = self.enter_context(server("--tls"))
        return variables


def run(title: str, environment: dict[str, str], arguments: list[str], cache: Path, servers: Servers) -> Result:
    """Run pytest, print what it printed, and return what it reported."""
    started = time.monotonic()
    report = cache / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-o", f"cache_dir={cache}"]
    # The form of the report that has the files' names.
    command += ["-o", "junit_family=xunit1", f"--junitxml={report}", *arguments]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        command.append(str(TESTS))
    with servers.borrowed() as variables:
        done = subprocess.run(
            command,
            env={**os.environ, **variables, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    result = read(report, done.returncode)
    print(f"=== {title}\n{done.stdout}    {title}: {result} in {time.monotonic() - started:.0f} s", flush=True)
    return result


def read(report: Path, status: int) -> Result:
    """Return what is in the *report* of a pytest that ended with *status*."""
    result = Result()
    skipped = set()
    try:
        for case in ElementTree.parse(report).iter("testcase"):
            classes = [part for part in case.get("classname", "").split(".") if part.startswith("Test")]
            # A test is in the report twice if it failed and its fixtures failed after it.
            name = "::".join([case.get("file", ""), *classes, case.get("name", "")])
            result.seconds[name] = result.seconds.get(name, 0) + float(case.get("time", 0))
            outcomes = {child.tag for child in case}
            if outcomes & {"failure", "error"}:
                result.failed.add(name)
            elif "skipped" in outcomes:
                skipped.add(name)
    except (OSError, ElementTree.ParseError):
        result.complete = False
    finally:
        report.unlink(missing_ok=True)
    skipped -= result.failed
    result.skipped = len(skipped)
    result.passed = len(result.seconds.keys() - result.failed - skipped)
    if not result.failed and (not result.complete or status not in (0, NOTHING_COLLECTED)):
        # The run hung and was ended, or it crashed.
        result.failed.add(f"the run itself, status {status}")
    return result


def repeat(
    title: str, environment: dict[str, str], arguments: list[str], cache: Path, servers: Servers, first: Result
) -> set[str]:
    """Run the failed tests of the *first* run again and correct it; return the tests that pass now.

    Runs side by side slow each other down. A test that fails for that reason passes
    alone; a broken test fails again.
    """
    again = run(f"{title}: what failed, alone", environment, [*arguments, "--lf"], cache, servers)
    flaky = first.failed - again.failed
    if first.complete:
        first.passed += len(flaky)
        first.failed &= again.failed
    else:
        # Without a list of what failed, all tests ran again.
        first.passed, first.skipped, first.failed = again.passed, again.skipped, again.failed
    return flaky


def compiled_loop_is_there() -> bool:
    script = "import psycogreen; raise SystemExit(psycogreen.implementation != 'cython')"
    environment = {**os.environ, "PSYCOGREEN_NO_EXTENSIONS": ""}
    return subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true", help="only the short core of the suite")
    parser.add_argument("--all", action="store_true", help="nearly the whole suite on the other loops and hubs too")
    parser.add_argument("--pure", action="store_true", help="only the pure loop")
    parser.add_argument("--only", metavar="TITLE", help="only the run of that title, 'pure on eventlet' for one")
    parser.add_argument("--jobs", type=int, default=4, help="runs side by side: they wait more than they compute")
    options, arguments = parser.parse_known_args()
    if not options.pure and not compiled_loop_is_there():
        print("The compiled loop is not there: build it (python setup.py build_ext --inplace), or use --pure.")
        return 1

    runs = combinations(options.core, options.pure, options.all)
    if options.only:
        titles = [title for title, *_ in runs]
        runs = [run for run in runs if run[0] == options.only]
        if not runs:
            parser.error(f"no run of the title {options.only!r} is among {titles}")
    flaky = []
    with tempfile.TemporaryDirectory() as scratch, Servers() as servers, ThreadPoolExecutor(options.jobs) as pool:
        caches = [Path(scratch) / str(n) for n in range(len(runs))]
        for cache in caches:
            cache.mkdir()
        jobs = [
            (title, environment, ["-m", marks, *arguments], cache, servers)
            for (title, environment, marks), cache in zip(runs, caches, strict=True)
        ]
        results = list(pool.map(lambda job: run(*job), jobs))
        for job, result in zip(jobs, results, strict=True):
            if result.failed:
                flaky += [f"{job[0]}: {name}" for name in sorted(repeat(*job, result))]

    print(f"=== the {SLOWEST} slowest tests")
    durations = [
        (seconds, title, name)
        for (title, *_), result in zip(runs, results, strict=True)
        for name, seconds in result.seconds.items()
    ]
    for seconds, title, name in heapq.nlargest(SLOWEST, durations):
        print(f"{seconds:6.1f} s  {title}: {name}")
    for line in flaky:
        print(f"flaky: {line}")
    print(f"{len(flaky)} flaky: failed at first, and passed alone")
    total = Result(
        passed=sum(result.passed for result in results),
        skipped=sum(result.skipped for result in results),
        failed={
            f"{title}: {name}" for (title, *_), result in zip(runs, results, strict=True) for name in result.failed
        },
    )
    for name in sorted(total.failed):
        print(f"failed: {name}")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
