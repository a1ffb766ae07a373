"""Run the suite once for each combination of loop and hub.

``python tests/run_matrix.py`` runs {compiled, pure} x {gevent, eventlet} in
full, and then the tests marked "core" or "hub" with the compiled loop on
gevent's other loops, eventlet's other hubs, asyncio and uvloop, and the core
with the pure loop on asyncio. Only the first run has the tests marked "once".
``--core`` runs only the tests marked "core", on the four combinations and with
one loop on asyncio.
``--all`` runs the whole suite on the other loops and hubs too, but for the
tests marked "heavy".
``--pure`` leaves the compiled loop out.
Further arguments go to pytest.

Ends with status 1 if anything failed; the last line has the numbers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from support.postgres import server, system_server

TESTS = Path(__file__).parent
# In gevent's debug mode these loops warn of a watcher that was not closed, and
# a warning fails the test. libuv goes on writing to the memory of such a one.
OTHER_LOOPS = [("gevent", {"GEVENT_LOOP": name, "GEVENT_DEBUG": "debug"}) for name in ("libuv-cffi", "libev-cffi")]
OTHER_HUBS = [("eventlet", {"EVENTLET_HUB": name}) for name in ("poll", "selects", "asyncio")]
ASYNCIO = [("asyncio", {"PSYCOGREEN_TEST_LOOP": name}) for name in ("asyncio", "uvloop")]

# pytest's exit status when no test is selected.
NOTHING_COLLECTED = 5


def combinations(core: bool, pure_only: bool, everything: bool) -> list[tuple[str, dict[str, str], list[str]]]:
    """Return a title, the environment and pytest's arguments for each run."""
    runs = []
    loops = ["pure"] if pure_only else ["compiled", "pure"]
    for loop in loops:
        for hub in "gevent", "eventlet":
            environment = {"PSYCOGREEN_TEST_HUB": hub, "PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "pure" else ""}
            marks = "core" if core else "not once" if runs else ""
            runs.append((f"{loop} on {hub}", environment, ["-m", marks]))
    # The compiled loop in full runs on asyncio below.
    loop = loops[0] if core else "pure"
    environment = {"PSYCOGREEN_TEST_HUB": "asyncio", "PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "pure" else ""}
    runs.append((f"{loop} on asyncio", environment, ["-m", "core"]))
    if not core and not pure_only:
        for hub, chosen in OTHER_LOOPS + OTHER_HUBS + ASYNCIO:
            environment = {"PSYCOGREEN_TEST_HUB": hub, "PSYCOGREEN_NO_EXTENSIONS": "", **chosen}
            marks = "not once and not heavy" if everything else "core or hub"
            runs.append((f"compiled on {hub} ({next(iter(chosen.values()))})", environment, ["-m", marks]))
    return runs


def run(title: str, environment: dict[str, str], arguments: list[str], cache: Path) -> dict[str, int]:
    """Run pytest; return how many tests passed, failed and were skipped."""
    started = time.monotonic()
    report = cache / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-o", f"cache_dir={cache}"]
    command += [f"--junitxml={report}", *arguments]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        command.append(str(TESTS))
    with ExitStack() as servers:
        # Its own: some tests end all sessions of theirs.
        environment = {**os.environ, **environment}
        if not os.environ.get("PSYCOGREEN_TEST_DSN"):
            environment["PSYCOGREEN_TEST_DSN"] = servers.enter_context(server())
        if not os.environ.get("PSYCOGREEN_TEST_TLS_DSN") and system_server():
            environment["PSYCOGREEN_TEST_TLS_DSN"] = servers.enter_context(server("--tls"))
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    counted = counts(report, done.returncode)
    numbers = ", ".join(f"{count} {key}" for key, count in counted.items())
    print(f"=== {title}\n{done.stdout}    {title}: {numbers} in {time.monotonic() - started:.0f} s", flush=True)
    return counted


def counts(report: Path, status: int) -> dict[str, int]:
    """Return what the *report* of a pytest that ended with *status* counts."""
    try:
        suite = ElementTree.parse(report).find("testsuite")
        tests, failures, errors, skipped = (int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped"))
    except (OSError, ElementTree.ParseError, AttributeError):
        # It hung and was ended, or crashed: at least one failed.
        return {"passed": 0, "failed": 1, "skipped": 0}
    finally:
        report.unlink(missing_ok=True)
    failed = failures + errors
    passed = tests - failed - skipped
    if status not in (0, NOTHING_COLLECTED) and not failed:
        failed = 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def compiled_loop_is_there() -> bool:
    script = "import psycogreen; raise SystemExit(psycogreen.implementation != 'cython')"
    environment = {**os.environ, "PSYCOGREEN_NO_EXTENSIONS": ""}
    return subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true", help="only the short core of the suite")
    parser.add_argument("--all", action="store_true", help="nearly the whole suite on the other loops and hubs too")
    parser.add_argument("--pure", action="store_true", help="only the pure loop")
    parser.add_argument("--jobs", type=int, default=3, help="runs side by side: they wait more than they compute")
    options, arguments = parser.parse_known_args()
    if not options.pure and not compiled_loop_is_there():
        print("The compiled loop is not there: build it (python setup.py build_ext --inplace), or use --pure.")
        return 1

    runs = combinations(options.core, options.pure, options.all)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        caches = [Path(scratch) / str(n) for n in range(len(runs))]
        for cache in caches:
            cache.mkdir()
        results = list(pool.map(lambda one, cache: run(*one[:2], [*one[2], *arguments], cache), runs, caches))
        # Runs side by side take each other's time. What fails for that reason
        # passes alone; what is broken fails again.
        for (title, environment, marks), cache, counted in zip(runs, caches, results, strict=True):
            if counted["failed"]:
                again = run(f"{title}: what failed, alone", environment, [*marks, *arguments, "--lf"], cache)
                counted["passed"] += counted["failed"] - again["failed"]
                counted["failed"] = again["failed"]
    total = {key: sum(counted[key] for counted in results) for key in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {key}" for key, count in total.items()))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
