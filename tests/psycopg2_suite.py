"""Run files of psycopg2's own test suite, blocking and green: what passes blocking must pass green.

``python tests/psycopg2_suite.py test_lobject.py [test_copy.py ...]``

The suite is that of the installed psycopg2, from its source distribution,
which pip fetches. Its tests that are skipped beside a wait callback are run:
they look for the callback in the environment, where it is not. The server is
the one that PSYCOGREEN_TEST_DSN names, the hub what PSYCOGREEN_TEST_HUB does.
"""

import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HUB = "PSYCOGREEN_SUITE_HUB"


def pytest_configure() -> None:
    """Make psycopg2 green, in the process that runs the suite: this module is a plugin there."""
    hub = os.environ[HUB]
    if hub != "blocking":
        importlib.import_module(f"psycogreen.{hub}").make_psycopg_green()


def fetched() -> Path:
    """Return the directory with the package ``tests`` of the installed psycopg2's source distribution."""
    import psycopg2

    version = psycopg2.__version__.split()[0]
    directory = Path(tempfile.gettempdir()) / f"psycogreen-psycopg2-{version}"
    source = directory / f"psycopg2-{version}"
    if not (source / "tests").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", directory, f"psycopg2=={version}"], check=True)
        (archive,) = directory.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    return source


def run(source: Path, hub: str, files: list[str]) -> dict[str, str]:
    """Run *files*; return the outcome of each test by its name."""
    from psycopg2.extensions import parse_dsn

    parameters = parse_dsn(os.environ["PSYCOGREEN_TEST_DSN"])
    names = {"TESTDB": "dbname", "TESTDB_HOST": "host", "TESTDB_PORT": "port", "TESTDB_USER": "user"}
    environment = {f"PSYCOPG2_{name}": str(parameters[key]) for name, key in names.items() if parameters.get(key)}
    path = [str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path]
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-p", "psycopg2_suite", "-p", "no:cacheprovider"]
        + ["-v", "--tb=short", "-W", "ignore", "--timeout=60", *(f"tests/{name}" for name in files)],
        cwd=source,
        env={**os.environ, **environment, HUB: hub, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        text=True,
        capture_output=True,
        check=False,
    )
    outcomes = dict(re.findall(r"^(tests/\S+) (PASSED|FAILED|SKIPPED|ERROR)", process.stdout, re.MULTILINE))
    if not outcomes or "FAILED" in outcomes.values():
        print(process.stdout, process.stderr, file=sys.stderr)
    return outcomes


def main(files: list[str]) -> int:
    source = fetched()
    hub = os.environ.get("PSYCOGREEN_TEST_HUB", "gevent")
    blocking, green = run(source, "blocking", files), run(source, hub, files)
    passed = [name for name, outcome in blocking.items() if outcome == "PASSED"]
    lost = [name for name in passed if green.get(name) != "PASSED"]
    for name in lost:
        print(f"passes blocking, not on {hub}: {name} {green.get(name, 'did not run')}")
    skipped = sum(outcome == "SKIPPED" for outcome in blocking.values())
    print(f"{', '.join(files)}: {len(passed)} tests pass blocking ({skipped} skipped), {len(passed) - len(lost)} on {hub}")
    return bool(lost) or not passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
