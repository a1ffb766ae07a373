"""The servers that the demo and the examples talk to."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Yield the DSN of the server that the environment names, or of one that runs meanwhile.

    DATABASE_URL comes first, then libpq's variables, for which the DSN is empty.
    """
    if os.environ.get("DATABASE_URL"):
        yield os.environ["DATABASE_URL"]
    elif any(name in os.environ for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")):
        yield ""
    else:
        print("Starting a PostgreSQL server...", flush=True)
        with helper("pgserver.py") as dsn:
            yield dsn


@contextlib.contextmanager
def slow_web_server() -> Iterator[str]:
    """Yield the URL of a web server that takes its time over every answer."""
    with helper("slow_web_server.py") as url:
        yield url


@contextlib.contextmanager
def helper(program: str) -> Iterator[str]:
    """Run a server whose first line tells where it is and which ends with its standard input."""
    command = [sys.executable, Path(__file__).with_name(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        if not address:
            sys.exit(f"{program} did not start; its message is above")
        try:
            yield address
        finally:
            process.stdin.close()
            process.wait()
