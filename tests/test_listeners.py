"""One greenlet waits for notifications on a connection while another runs queries on it."""

import io
from typing import Any

from hubs.contract import Hub


def test_a_listener_gets_all_notifications_beside_queries(hub: Hub, connect: Any) -> None:
    session, sender = hub.run(connect), hub.run(connect)
    session.autocommit = sender.autocommit = True
    session.cursor().execute("LISTEN news")
    heard: list[str] = []

    def listen() -> None:
        while len(heard) < 40:
            hub.wait_readable(session.fileno())
            session.poll()
            while session.notifies:
                heard.append(session.notifies.pop(0).payload)

    def query() -> None:
        for number in range(30):
            cursor = session.cursor()
            cursor.execute("SELECT %s FROM pg_sleep(0.01)", (number,))
            assert cursor.fetchone() == (number,)
        # Waits to read or to write.
        cursor.execute("CREATE TEMPORARY TABLE items (text text)")
        cursor.copy_expert("COPY items FROM STDIN", io.BytesIO(b"0123456789\n" * 1_000_000))
        cursor.copy_expert("COPY items TO STDOUT", io.BytesIO())
        assert cursor.rowcount == 1_000_000

    listener = hub.spawn(listen)
    hub.sleep(0.01)
    queries = hub.spawn(query)
    for number in range(39):
        hub.run(sender.cursor().execute, "SELECT pg_notify('news', %s)", (str(number),))
        hub.sleep(0.005)
    queries.wait()
    hub.run(sender.cursor().execute, "SELECT pg_notify('news', '39')")
    listener.wait()
    assert heard == [str(number) for number in range(40)]


def test_poll_of_another_greenlet_leaves_the_answer(hub: Hub, connect: Any) -> None:
    connection = hub.run(connect)
    cursor = connection.cursor()
    task = hub.spawn(cursor.execute, "SELECT 7 FROM pg_sleep(0.1)")
    for _ in range(30):
        hub.sleep(0.01)
        connection.poll()
    task.wait()
    assert cursor.fetchone() == (7,)
