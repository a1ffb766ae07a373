"""The examples of examples/asyncio."""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples" / "asyncio"

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]


def start(dsn, *command):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *command],
        cwd=EXAMPLES,
        env={**os.environ, "DATABASE_URL": dsn, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_queries(loop, dsn):
    pytest.importorskip(loop)
    with start(dsn, "queries.py", loop) as process:
        answers, took, limited = process.communicate(timeout=30)[0].splitlines()
    assert answers == "0 1 2 3 4 timer 0 timer 1 timer 2 timer 3 timer 4"
    assert 0.5 <= float(took.split()[0]) < 2.5  # instead of 5
    assert limited == "It took too long."
    assert process.returncode == 0


@pytest.mark.parametrize("hub", ["eventlet", "asyncio"])
def test_notes(hub, dsn):
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    cursor = connection.cursor()
    with start(dsn, f"notes_on_{hub}.py") as process, ExitStack() as stack:
        stack.callback(connection.close)
        stack.callback(cursor.execute, "DROP TABLE notes")
        stack.callback(process.kill)
        port = int(process.stdout.readline().split()[1])
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(8)]
        streams = [stack.enter_context(client.makefile("rw")) for client in clients]

        def ask(stream, line):
            stream.write(f"{line}\n")
            stream.flush()

        for number, stream in enumerate(streams):
            ask(stream, f"add note {number}")
        assert sorted(int(stream.readline()) for stream in streams) == list(range(1, 9))
        assert sorted(int(process.stdout.readline().split()[1]) for _ in streams) == list(range(1, 9))
        ask(streams[0], "export")
        assert sorted(streams[0].readline() for _ in streams) == [f"note {number}\n" for number in range(8)]
        # Eight on five connections, some of which take too long.
        began = time.monotonic()
        for number, stream in enumerate(streams):
            ask(stream, "digest 60" if number % 4 == 0 else "digest 0.3")
        answers = [stream.readline() for stream in streams]
        assert answers == ["too slow\n", "8 notes\n", "8 notes\n", "8 notes\n"] * 2
        assert time.monotonic() - began < 3
        # Those have ended in the server too.
        while True:
            cursor.execute(
                "SELECT FROM pg_stat_activity WHERE query LIKE '%notes, pg_sleep(60%'"
                " AND state = 'active' AND pid <> pg_backend_pid()"
            )
            if not cursor.rowcount:
                break
            assert time.monotonic() - began < 10
            time.sleep(0.01)
        for stream in streams:
            ask(stream, "digest 0")
        assert [stream.readline() for stream in streams] == ["8 notes\n"] * 8
