"""Trying on each hub, in a process of its own, whether the hub runs on while queries wait."""

import subprocess
import sys
from dataclasses import dataclass

from psycogreen._diagnosis.hub_check import Round

# Seconds. Connecting is limited too: see hub_check.
_PATIENCE = 60


@dataclass(frozen=True)
class Outcome:
    """The outcome of the check on one hub."""

    hub: str
    #: The driver's module: "psycopg2" or "psycopg".
    driver: str
    #: Whether the hub kept running.
    green: bool
    #: Seconds that all queries together took; None if they failed.
    seconds: float | None
    #: The hub's longest pause, in seconds.
    longest_pause: float | None
    #: The error of a check that failed.
    error: str | None


def check(hub: str, driver: str, dsn: str) -> Outcome:
    """Connect with *dsn* by *driver* and make queries on *hub*, beside a ticker."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", Round.__module__, hub, driver],
            input=dsn,  # not as an argument, which all users can see: the DSN may have a password
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return Outcome(hub, driver, False, None, None, f"not done within {_PATIENCE} seconds")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        error = done.stderr.strip() or f"ended with status {done.returncode}"
        return Outcome(hub, driver, False, None, None, error.splitlines()[-1])
    best = Round(*map(float, lines[-1].split()))
    return Outcome(hub, driver, best.green, best.seconds, best.longest_pause, None)
