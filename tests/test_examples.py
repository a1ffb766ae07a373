"""The scripts that a person runs: the examples and the demo."""

import re
import subprocess
import sys

import pytest
from support.processes import TESTS, child_environment

pytestmark = pytest.mark.once


def run(script: str, dsn: str) -> str:
    return subprocess.run(
        [sys.executable, TESTS / script],
        env=child_environment(DATABASE_URL=dsn, COLUMNS="100"),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_an_example_overlaps_queries_and_requests(hub, dsn):
    lines = [line.split(maxsplit=4) for line in run(f"example_{hub}.py", dsn).splitlines()]
    assert all(line[1] == "s" for line in lines)
    events = [(f"{kind} {number}", what) for _, _, kind, number, what in lines]
    everybody = sorted(f"{kind} {n}" for kind in ("query", "request") for n in (1, 2, 3))
    # All ask before the first gets its answer: the waits overlap.
    assert sorted(events[:6]) == [(name, "asks") for name in everybody]
    assert sorted(events[6:]) == [(name, "was told: done") for name in everybody]


def test_the_demo_shows_the_speed_up(dsn):
    pytest.importorskip("rich")
    shown = run("demo.py", dsn)
    assert shown.count("40/40") == 3
    rows = re.findall(r"^ +(\w+) +(\d+\.\d\d) s +(\d+\.\d) x +(.*?) *$", shown, re.M)
    assert [row[0] for row in rows] == ["blocking", "gevent", "eventlet"]
    blocking, *green = (float(row[1]) for row in rows)
    assert blocking >= 4.0  # the queries run one after the other, on any machine
    assert all(seconds < blocking / 4 for seconds in green)
