"""Programs in processes of their own: servers, and tests that need a fresh process."""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
PROGRAMS = TESTS / "programs"

#: The command that runs a program. It ignores warnings, among them gevent's and eventlet's about late patching.
PYTHON = [sys.executable, "-W", "ignore", "-X", "faulthandler"]


def child_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with *variables* added. A child can import the same modules with it."""
    path = [os.path.abspath(entry) for entry in (variables.pop("PYTHONPATH", ""), str(TESTS), *sys.path) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), **variables}


def leash() -> list[str]:
    """Return a prefix for a command that ends its process together with this one; nothing where there is none."""
    return ["setpriv", "--pdeathsig", "TERM"] if sys.platform == "linux" and shutil.which("setpriv") else []


def run_program(name: str, *arguments: object, timeout: float = 60, **variables: str) -> str:
    """Run a program of programs/ with this Python; return its output.

    *variables* are added to its environment.

    Raises:
        AssertionError: The program's status was not 0, or it wrote to its standard error.
        subprocess.TimeoutExpired: The program took longer than *timeout* seconds.
    """
    return _run(PROGRAMS / f"{name}.py", *arguments, timeout=timeout, **variables)


def run_script(script: str, *arguments: object, **variables: str) -> str:
    """Run a script of a few lines as run_program() runs a program."""
    return _run("-c", textwrap.dedent(script), *arguments, timeout=60, **variables)


def _run(*arguments: object, timeout: float, **variables: str) -> str:
    # Importing eventlet's resolver takes most of a second, for each program.
    variables = {"EVENTLET_NO_GREENDNS": "yes", **variables}
    done = subprocess.run(
        [*PYTHON, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=child_environment(**variables),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout.strip()


@contextmanager
def running(command: Sequence[object], **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """Run a command with a readable output. Kill it at the end of the block."""
    options = {"stdout": subprocess.PIPE, "text": True, "env": child_environment(), **options}
    with subprocess.Popen([str(word) for word in command], **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(name: str, *arguments: str) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """Run a program of programs/ that serves until its standard input ends, so also until this process is killed.

    Yield the first line that the program prints, which says where it serves, and its
    process.

    Raises:
        RuntimeError: The program ended without that line.
    """
    with subprocess.Popen(
        [sys.executable, PROGRAMS / f"{name}.py", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{name} ended with status {process.wait()}, its errors are above")
        try:
            yield address, process
        finally:
            process.stdin.close()
            process.wait()
