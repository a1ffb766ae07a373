"""Servers in processes of their own, for the tests and for the scripts that a person runs."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def helper(program: str, *arguments: str) -> Iterator[str]:
    """Run a program of this directory that serves until its standard input ends.

    So it ends also when this process is killed. Yield the first line that it
    prints: where it is.

    Raises:
        RuntimeError: It ended without that line.
    """
    command = [sys.executable, Path(__file__).with_name(program), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{program} ended with status {process.wait()}, its errors are above")
        try:
            yield address
        finally:
            process.stdin.close()
            process.wait()


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


def free_port() -> int:
    """Return a port at which nothing listens."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
