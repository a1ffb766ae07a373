"""Misuse raises the error of release 1.0.2, of psycopg2, or of the hub."""

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import POLL_READ


@pytest.mark.core
@pytest.mark.parametrize("result", [7, -1, 3, None, "garbage", 1.5, object, [], 2**70], ids=repr)
def test_an_unknown_poll_result_raises(result, fake_connection, hub):
    connection = fake_connection(lambda: result)
    with pytest.raises(psycopg2.OperationalError) as caught:
        hub.run(hub.wait_callback, connection)
    assert str(caught.value) == f"Bad result from poll: {result!r}"
    assert connection.polls == 1


@pytest.mark.parametrize("ok", [0, 0.0, False], ids=repr)
def test_a_poll_result_equal_to_poll_ok_ends_the_wait(ok, fake_connection, hub):
    assert hub.run(hub.wait_callback, fake_connection(ok)) is None


@pytest.mark.core
@pytest.mark.parametrize("garbage", [42, None, "connection", object()], ids=["42", "None", "str", "object"])
def test_an_object_that_is_no_connection_raises(garbage, hub):
    with pytest.raises(AttributeError, match="has no attribute 'poll'"):
        hub.run(hub.wait_callback, garbage)


def test_a_wrong_number_of_arguments_raises(fake_connection, hub):
    for arguments in (), (fake_connection(), None, 3):
        with pytest.raises(TypeError):
            hub.run(hub.wait_callback, *arguments)
    with pytest.raises(TypeError):
        hub.run(lambda: hub.wait_callback(fake_connection(), patience=3))


@pytest.mark.skipif(NAME == "eventlet", reason="eventlet itself keeps such a listener for ever")
@pytest.mark.parametrize("descriptor", [None, "5", -1, 1 << 20])
def test_a_bad_descriptor_raises_as_in_the_hub(descriptor, hub):
    class Connection:
        def poll(self):
            return POLL_READ

        def fileno(self):
            return descriptor

    watched = hub.watched()
    with pytest.raises(Exception) as expected:  # noqa: PT011
        hub.run(hub.wait_readable, descriptor)
    with pytest.raises(expected.type) as caught:
        hub.run(hub.wait_callback, Connection())
    assert str(caught.value) == str(expected.value)
    assert hub.watched() == watched


@pytest.mark.core
@pytest.mark.parametrize("kind", [psycopg2.OperationalError, ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_errors_of_poll_are_passed_on(kind, fake_connection, hub):
    error = kind("from poll")
    connection = fake_connection(POLL_READ, error)
    connection.answer()
    watched = hub.watched()
    with pytest.raises(kind) as caught:
        hub.run(hub.wait_callback, connection)
    assert caught.value is error
    assert hub.watched() == watched


def test_errors_of_fileno_are_passed_on(hub):
    class Connection:
        def poll(self):
            return POLL_READ

        def fileno(self):
            raise psycopg2.InterfaceError("connection already closed")

    with pytest.raises(psycopg2.InterfaceError, match="already closed"):
        hub.run(hub.wait_callback, Connection())


@pytest.mark.skipif(NAME == "eventlet", reason="eventlet itself keeps such a listener for ever")
def test_a_close_within_poll_raises(fake_connection, hub):
    connection = fake_connection()
    connection.script[:] = [lambda: (connection.socket.close(), POLL_READ)[1]]
    with pytest.raises((OSError, ValueError)):
        hub.run(hub.wait_callback, connection)


def test_the_callback_returns_none(fake_connection, hub):
    assert hub.run(hub.wait_callback, fake_connection()) is None
