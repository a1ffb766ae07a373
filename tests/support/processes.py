"""Programs in processes of their own: for what only a fresh process can show, and servers."""

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

#: What runs a program of tests. The warnings are also gevent's and eventlet's, of being patched late.
PYTHON = [sys.executable, "-W", "ignore", "-X", "faulthandler"]


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment with *variables* added, in which a child imports what this process can."""
    path = [os.path.abspath(entry) for entry in (variables.pop("PYTHONPATH", ""), str(TESTS), *sys.path) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), **variables}


def leash() -> list[str]:
    """Return what, before a command, ends its process with this one, where there is such a thing."""
    return ["setpriv", "--pdeathsig", "TERM"] if sys.platform == "linux" and shutil.which("setpriv") else []


def run_program(name: str, *arguments: object, timeout: float = 60, **variables: str) -> str:
    """Run a program of programs/ with this Python; return what it printed.

    *variables* are added to its environment.

    Raises:
        AssertionError: It ended with another status than 0, or it wrote errors.
        subprocess.TimeoutExpired: It took too long.
    """
    return _run(PROGRAMS / f"{name}.py", *arguments, timeout=timeout, **variables)


def run_script(script: str, *arguments: object, **variables: str) -> str:
    """Do what run_program() does with a script of a few lines."""
    return _run("-c", textwrap.dedent(script), *arguments, timeout=60, **variables)


def _run(*arguments: object, timeout: float, **variables: str) -> str:
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
    """Run a command, whose output can be read, until the end of the block at most."""
    options = {"stdout": subprocess.PIPE, "text": True, "env": child_environment(), **options}
    with subprocess.Popen([str(word) for word in command], **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(name: str, *arguments: str) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """Run a program of programs/ that serves until its standard input ends.

    So it ends also when this process is killed. Yield the first line that the
    program prints, where it is, and its process.

    Raises:
        RuntimeError: It ended without that line.
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
