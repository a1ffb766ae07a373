"""Run the suite once for each combination of loop and hub.

``python tests/run_matrix.py`` runs {compiled, pure} x {gevent, eventlet} in
full, and then the compiled loop on gevent's other loops and eventlet's other
hubs, without the tests marked "heavy". Only the first run has the tests marked
"once". ``--core`` runs only the tests marked "core", on the four combinations.
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
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

from fix_server import server
from pgserver import system_server

TESTS = Path(__file__).parent
OTHER_LOOPS = [("gevent", "GEVENT_LOOP", name) for name in ("libuv-cffi", "libev-cffi")]
OTHER_HUBS = [("eventlet", "EVENTLET_HUB", name) for name in ("poll", "selects", "asyncio")]


def combinations(core: bool, pure_only: bool) -> list[tuple[str, dict[str, str], list[str]]]:
    """Return a title, the environment and pytest's arguments for each run."""
    runs = []
    for loop in ["pure"] if pure_only else ["compiled", "pure"]:
        for hub in "gevent", "eventlet":
            environment = {"PSYCOGREEN_TEST_HUB": hub, "PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "pure" else ""}
            marks = "core" if core else "not once" if runs else ""
            runs.append((f"{loop} on {hub}", environment, ["-m", marks]))
    if not core and not pure_only:
        for hub, variable, name in OTHER_LOOPS + OTHER_HUBS:
            environment = {"PSYCOGREEN_TEST_HUB": hub, "PSYCOGREEN_NO_EXTENSIONS": "", variable: name}
            runs.append((f"compiled on {hub} ({name})", environment, ["-m", "not heavy and not once"]))
    return runs


def run(title: str, environment: dict[str, str], arguments: list[str]) -> dict[str, int]:
    """Run pytest; return how many tests passed, failed and were skipped."""
    print(f"=== {title}", flush=True)
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report.name}", *arguments]
        if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
            command.append(str(TESTS))
        status = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
        try:
            suite = ElementTree.parse(report.name).find("testsuite")
            counted = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
        except (ElementTree.ParseError, AttributeError):
            # It hung and was ended, or crashed: at least one failed.
            counted = {"tests": 1, "failures": 1, "errors": 0, "skipped": 0}
    failed = counted["failures"] + counted["errors"]
    if status and not failed:
        failed = counted["failures"] = 1
        counted["tests"] += 1
    passed = counted["tests"] - failed - counted["skipped"]
    print(f"    {title}: {passed} passed, {failed} failed, {counted['skipped']} skipped", end="")
    print(f" in {time.monotonic() - started:.0f} s (status {status})", flush=True)
    return {"passed": passed, "failed": failed, "skipped": counted["skipped"]}


def compiled_loop_is_there() -> bool:
    script = "import psycogreen; raise SystemExit(psycogreen.implementation != 'cython')"
    environment = {**os.environ, "PSYCOGREEN_NO_EXTENSIONS": ""}
    return subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", action="store_true", help="only the short core of the suite")
    parser.add_argument("--pure", action="store_true", help="only the pure loop")
    options, arguments = parser.parse_known_args()
    if not options.pure and not compiled_loop_is_there():
        print("The compiled loop is not there: build it (python setup.py build_ext --inplace), or use --pure.")
        return 1

    total = {"passed": 0, "failed": 0, "skipped": 0}
    with ExitStack() as servers:
        # One of each for all runs.
        if not os.environ.get("PSYCOGREEN_TEST_DSN"):
            os.environ["PSYCOGREEN_TEST_DSN"] = servers.enter_context(server())
        if not os.environ.get("PSYCOGREEN_TEST_TLS_DSN") and system_server():
            os.environ["PSYCOGREEN_TEST_TLS_DSN"] = servers.enter_context(server("--tls"))
        for title, environment, marks in combinations(options.core, options.pure):
            for key, count in run(title, environment, [*marks, *arguments]).items():
                total[key] += count
    print(", ".join(f"{count} {key}" for key, count in total.items()))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
