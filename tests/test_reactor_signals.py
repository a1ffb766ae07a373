"""A signal handler that waits or raises at a bad moment loses no greenlet's wake-up."""

import contextlib
import os
import threading

import greenlet
import pytest
from hubs import NAME, ON_ASYNCIO_LOOP

import psycogreen
from psycogreen import _cancel

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_queries_go_on_after_a_signal_handler_raised_in_the_hub(kind, hub, connect, monkeypatch, capfd):
    if ON_ASYNCIO_LOOP and kind is KeyboardInterrupt:
        pytest.skip("an interrupt ends asyncio's loop")
    set_ref = hub.adapter._Watch.set_ref
    due = []

    def set_ref_and_raise(watch, awaited):
        set_ref(watch, awaited)
        if not awaited and due:
            due.clear()
            raise kind("from a signal handler")

    monkeypatch.setattr(hub.adapter._Watch, "set_ref", set_ref_and_raise)

    def query():
        cursor = connection.cursor()
        for number in range(3):
            cursor.execute("SELECT %s, pg_sleep(0.01)", (number,))
            hub.sleep(0)
        return cursor.fetchone()[0]

    connection = hub.run(connect)
    hub.run(query)
    due.append(True)
    # In the main greenlet, while the hub has nothing else to wait for.
    if kind is KeyboardInterrupt and psycogreen.implementation == "cython":
        with pytest.raises(KeyboardInterrupt):  # the hub hands it on to the main greenlet
            query()
    else:
        query()
    assert query() == 2
    assert not due or psycogreen.implementation == "python"
    capfd.readouterr()  # the hub's report


@pytest.mark.parametrize("when", ["set_ref", "switch"])
def test_wait_in_a_signal_handler_keeps_the_wakeup(when, hub, connect, monkeypatch):
    if when == "switch" and NAME == "asyncio":
        pytest.skip("its greenlets switch to the loop directly")
    # A signal handler or a __del__ may wait in any greenlet. It must not consume that greenlet's wake-up.
    connection, other = hub.run(connect), hub.run(connect)
    due = []

    def query(connection, sql):
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute(sql)
        return cursor.fetchone()[0]

    def query_and_call(*args):
        if due:
            due.clear()
            assert query(other, "SELECT 2 FROM pg_sleep(0.05)") == 2
        return real(*args)

    def waiting():
        due.append(True)
        return query(connection, "SELECT 1")

    hub.run(query, connection, "SELECT 1")
    hub.run(query, other, "SELECT 1")
    target = hub.adapter._Watch if when == "set_ref" else type(hub.adapter._adapter)
    real = getattr(target, when)
    monkeypatch.setattr(target, when, query_and_call)
    if when == "set_ref":
        assert hub.run(waiting) == 1
    else:  # in the main greenlet, which switches to the hub in the hub's own way
        assert hub.program(waiting) == 1
    assert not due or psycogreen.implementation == "python"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_raise_in_the_hubs_report_keeps_the_wakeups(kind, hub, pipe, monkeypatch, capfd):
    if ON_ASYNCIO_LOOP and kind is KeyboardInterrupt:
        pytest.skip("an interrupt ends asyncio's loop")

    def undo_and_raise(*args):
        monkeypatch.undo()
        raise kind("from a signal handler")

    def fail():
        hub.wait_callback(failing)
        failed.append(True)
        raise ZeroDivisionError

    failing, other, failed = pipe(), pipe(), []
    monkeypatch.setattr(type(hub.adapter._adapter), "handle_error", undo_and_raise)
    hub.call_soon(greenlet.greenlet(fail, hub.run_in_hub(greenlet.getcurrent)).switch)
    hub.sleep(0.01)
    failing.answer()
    with contextlib.suppress(KeyboardInterrupt):  # the hub hands it on to the main greenlet
        hub.wait_until(lambda: failed)
        hub.sleep(0.01)
    task = hub.spawn(hub.wait_callback, other)
    hub.sleep(0.01)
    other.answer()
    task.wait()
    capfd.readouterr()  # the hub's report


def test_a_timeout_of_a_signal_handler_ends_the_query_for_which_the_reactor_is_made(hub, connect, monkeypatch):
    # TimeoutError is an OSError, as is the error of a system that has no descriptor left.
    if psycogreen.implementation == "python":
        pytest.skip("it has no reactor")
    watch, tests_thread = hub.adapter._Watch.__init__, threading.get_ident()

    def struck(*args):
        if threading.get_ident() != tests_thread:
            raise TimeoutError("from a signal handler")
        watch(*args)

    def query():
        with pytest.raises(TimeoutError, match="from a signal handler"):
            hub.spawn(connection.cursor().execute, "SELECT 1").wait()
        hub.wait_until(lambda: not _cancel._pending)  # the request to cancel is left to this thread's hub

    connection = connect()
    monkeypatch.setattr(hub.adapter._Watch, "__init__", struck)
    hub.run_in_thread(query)
    assert connection.closed


@pytest.mark.parametrize("method", ["__init__", "set_ref", "stop"])
def test_queries_go_on_after_a_signal_handler_raised_while_the_poller_is_replaced(
    method, hub, connect, monkeypatch, capfd
):
    def query(connection, seconds):
        for _ in range(2):
            connection.cursor().execute("SELECT pg_sleep(%s)", (seconds,))

    real = getattr(hub.adapter._Watch, method)
    due = []

    def struck(*args):
        if due:
            due.clear()
            raise ValueError("from a signal handler")
        return real(*args)

    held, other, waiting = (hub.run(connect) for _ in range(3))
    for connection in held, other, waiting:
        hub.run(query, connection, 0.001)
    monkeypatch.setattr(hub.adapter._Watch, method, struck)
    # The events of a closed socket that has a duplicate make the reactor replace its poller.
    duplicate = os.dup(held.fileno())
    task = hub.spawn(query, waiting, 0.3)
    hub.sleep(0.01)
    due.append(True)
    held.close()
    hub.run(query, other, 0.05)
    task.wait()
    hub.run(query, other, 0.001)
    os.close(duplicate)
    assert not due or psycogreen.implementation == "python"
    capfd.readouterr()  # the hub's report
