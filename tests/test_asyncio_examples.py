"""The examples in examples/asyncio."""

import socket
import time
from contextlib import ExitStack

import psycopg2
import pytest
from support.processes import PYTHON, ROOT, child_environment, running
from support.waiting import wait_until

EXAMPLES = ROOT / "examples" / "asyncio"

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]


def start(dsn, program, *arguments):
    return running([*PYTHON, program, *arguments], cwd=EXAMPLES, env=child_environment(DATABASE_URL=dsn))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_queries_overlap_and_time_out(loop, dsn):
    pytest.importorskip(loop)
    with start(dsn, "queries.py", loop) as process:
        answers, took, limited = process.communicate(timeout=30)[0].splitlines()
    assert answers == "0 1 2 3 4 timer 0 timer 1 timer 2 timer 3 timer 4"
    assert 0.5 <= float(took.split()[0]) < 2.5  # instead of 5
    assert limited == "It took too long."
    assert process.returncode == 0


@pytest.mark.parametrize("hub", ["eventlet", "asyncio"])
def test_notes_are_served_side_by_side(hub, dsn, observer):
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
        # Eight requests on five connections. Some requests take too long.
        began = time.monotonic()
        for number, stream in enumerate(streams):
            ask(stream, "digest 60" if number % 4 == 0 else "digest 0.3")
        answers = [stream.readline() for stream in streams]
        assert answers == ["too slow\n", "8 notes\n", "8 notes\n", "8 notes\n"] * 2
        assert time.monotonic() - began < 3
        # The queries that took too long have ended in the server too.
        wait_until(lambda: not observer.executing("notes, pg_sleep(60"), timeout=10)
        for stream in streams:
            ask(stream, "digest 0")
        assert [stream.readline() for stream in streams] == ["8 notes\n"] * 8
