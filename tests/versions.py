"""Run the core of the suite with other versions of what psycogreen depends on, and print a table.

``python tests/versions.py`` makes an environment for each row, in .venvs/versions/, and takes
about two minutes a row. Arguments choose rows by their numbers, from 1. The Pythons are those of
pyenv, or those on the PATH.

The status is 1 if a test failed.
"""

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A version of Python, and the packages that differ from the newest.
ROWS = [
    ("3.10", "gevent==22.10.2", "eventlet==0.33.3", "greenlet==3.0.0"),
    ("3.10", "psycopg2-binary==2.9.2"),
    ("3.11", "psycopg2-binary==2.9.5"),
    ("3.11", "psycopg2-binary==2.9.9"),
    ("3.12", "psycopg2-binary==2.9.10"),
    ("3.13",),
    ("3.14",),
]

# What a row of the table shows of an environment.
VERSIONS = """
import platform
from importlib.metadata import version
import psycopg2
libpq = divmod(psycopg2.extensions.libpq_version(), 10000)
names = ("gevent", "eventlet", "greenlet", "psycopg")
print(platform.python_version(), version("psycopg2-binary"), "%d.%d" % libpq, *map(version, names))
"""

HEADER = ["Python", "psycopg2", "libpq", "gevent", "eventlet", "greenlet", "psycopg", "passed", "failed", "skipped"]


def interpreter(version: str) -> str:
    """Return the path of the newest CPython of a minor version that pyenv has, or the name of the one on the PATH."""
    paths = glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python"))
    return max(paths, key=lambda path: int(path.split("/")[-3].rpartition(".")[2]), default=f"python{version}")


def run(python: str, *packages: str) -> list[str]:
    """Return a row of the table: the versions, and what run_matrix.py counted."""
    venv = ROOT / ".venvs" / "versions" / "-".join([python, *(re.sub(r"\W+", "-", package) for package in packages)])
    subprocess.run(
        [
            "make",
            "-s",
            f"PYTHON={interpreter(python)}",
            f"VENV={venv.relative_to(ROOT)}",
            f"{venv.relative_to(ROOT)}/test-installed",
        ],
        cwd=ROOT,
        check=True,
        stdout=sys.stderr,
    )
    if packages:
        subprocess.run([venv / "bin/pip", "-q", "install", *packages], check=True, stdout=sys.stderr)
    versions = subprocess.run([venv / "bin/python", "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
    done = subprocess.run(
        [venv / "bin/python", ROOT / "tests/run_matrix.py", "--core"], capture_output=True, text=True, check=False
    )
    counts = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", done.stdout, re.M)
    assert counts, done.stdout + done.stderr
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return [*versions.split(), *counts.groups()]


def main() -> int:
    chosen = [int(argument) for argument in sys.argv[1:]] or range(1, len(ROWS) + 1)
    print("|", " | ".join(HEADER), "|")
    print("|", " | ".join(["---"] * len(HEADER)), "|")
    failed = False
    for number in chosen:
        row = run(*ROWS[number - 1])
        print("|", " | ".join(row), "|", flush=True)
        failed |= row[-2] != "0"
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
