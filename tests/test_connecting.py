"""Connecting, also to servers that are slow, silent or send garbage."""

import _socket
import threading
import time

import psycopg2
import psycopg2.extras
import pytest
from hubs import NAME
from psycopg2.extensions import POLL_READ, POLL_WRITE, make_dsn, set_wait_callback
from support.network import relay

pytestmark = pytest.mark.libpq


def failure(function, *args):
    with pytest.raises(psycopg2.Error) as caught:
        function(*args)
    return caught.type, str(caught.value)


def as_with_wait_select(function, hub):
    """Run *function* with psycopg2's own blocking wait callback, as an oracle."""
    set_wait_callback(psycopg2.extras.wait_select)
    try:
        return function()
    finally:
        set_wait_callback(hub.wait_callback)


def local(port, **more):
    return make_dsn(host="127.0.0.1", port=port, user="postgres", dbname="postgres", **more)


@pytest.mark.core
def test_tls_connects_and_checks_the_certificate(connect, tls_dsn, hub):
    def queries(number):
        connection = connect(tls_dsn)
        cursor = connection.cursor()
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchall() == [(True,)]
        cursor.execute("SELECT pg_sleep(0.2)")
        # Larger than a record of TLS: libpq may hold data when the socket has none left.
        cursor.execute("SELECT repeat(%s, 200000) FROM generate_series(1, 20)", [chr(65 + number)])
        assert cursor.fetchall() == [(chr(65 + number) * 200_000,)] * 20
        cursor.execute("SELECT length(%s)", ["x" * 3_000_000])
        return cursor.fetchone()[0]

    with hub.ticker(0.01) as ticker:
        tasks = [hub.spawn(queries, number) for number in range(5)]
        assert [task.wait() for task in tasks] == [3_000_000] * 5
    assert ticker.ticks >= 10


def test_tls_with_the_wrong_name_raises(tls_dsn, green, blocking_dsn_connect, hub):
    wrong = make_dsn(tls_dsn, host="elsewhere.example")
    kind, message = hub.run(failure, psycopg2.connect, wrong)
    with pytest.raises(psycopg2.OperationalError) as expected, blocking_dsn_connect(wrong):
        pass
    assert kind is expected.type
    assert message == str(expected.value)


def test_tcp_connects(connect, tcp_dsn, hub):
    def query():
        cursor = connect(tcp_dsn).cursor()
        cursor.execute("SELECT pg_sleep(0.05), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return cursor.fetchone()[1]

    assert hub.run(query) is False


def test_connecting_goes_on_with_a_second_socket(connect, fake_server, to_server, hub):
    """libpq gives up TLS and connects again, most often with the same descriptor."""

    def handle(client, number):
        if number % 2:
            client.recv(8)
            client.send(b"S")
            time.sleep(0.05)
            client.send(b"not TLS at all" * 10)
            client.recv(65536)
        else:
            relay(client, to_server())

    server = fake_server(handle)
    for number in range(3):
        connection = hub.spawn(connect, local(server.port, sslmode="prefer")).wait()
        cursor = connection.cursor()
        hub.run(cursor.execute, "SELECT %s", [number])
        assert cursor.fetchone() == (number,)
    assert server.accepted == 6


def test_several_hosts_are_tried_one_after_the_other(connect, tcp_dsn, hub):
    # libpq tries both and finds no standby. Then it tries the first again.
    port = psycopg2.extensions.parse_dsn(tcp_dsn)["port"]
    dsn = make_dsn(
        tcp_dsn,
        host="localhost,localhost",
        hostaddr="127.0.0.1,127.0.0.1",
        port=f"{port},{port}",
        target_session_attrs="prefer-standby",
    )

    def query(number):
        cursor = connect(dsn).cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_sleep(0.01), %s", [number])
        return cursor.fetchone()[1]

    tasks = [hub.spawn(query, number) for number in range(10)]
    assert [task.wait() for task in tasks] == list(range(10))


def test_the_second_host_is_tried_when_the_first_refuses(connect, tcp_dsn, fake_server, hub):
    gone = fake_server(lambda client, number: None)
    gone.close()
    port = psycopg2.extensions.parse_dsn(tcp_dsn)["port"]
    dsn = make_dsn(tcp_dsn, host="", hostaddr="127.0.0.1,127.0.0.1", port=f"{gone.port},{port}")
    cursor = hub.run(connect, dsn).cursor()
    hub.run(cursor.execute, "SELECT 1")
    assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("state", [POLL_READ, POLL_WRITE])
def test_the_descriptor_is_read_at_every_park(state, fake_connection, hub):
    first, second = fake_connection(state, state), fake_connection()
    first.fill()
    second.fill()
    make_ready = {
        POLL_READ: lambda connection: connection.answer(),
        POLL_WRITE: lambda connection: connection.peer.recv(1 << 24),
    }[state]
    sockets = [first.socket, second.socket]
    asked = []

    class Moving:
        polls = 0

        def poll(self):
            self.polls += 1
            return 0 if self.polls == 3 else state

        def fileno(self):
            asked.append(self.polls)
            return sockets[self.polls - 1].fileno()

    moving = Moving()
    task = hub.spawn(hub.wait_callback, moving)
    hub.wait_until(lambda: moving.polls == 1)
    make_ready(first)
    hub.wait_until(lambda: moving.polls == 2)
    hub.sleep(0.02)
    assert moving.polls == 2  # not woken by the first socket
    make_ready(second)
    task.wait()
    assert asked == [1, 2]


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E", b"", b"\0" * 1000, b"R\0\0\0\x08\0\0\0\x63", b"R\0\0\0\0", b"Z" * 9],
    ids=repr,
)
def test_garbage_while_connecting_raises_as_blocking(garbage, green, fake_server, blocking_dsn_connect, hub):
    def handle(client, number):
        client.recv(65536)
        client.sendall(garbage)

    server = fake_server(handle)
    dsn = local(server.port, sslmode="disable", gssencmode="disable")
    watched = hub.watched()
    ours = hub.run(failure, psycopg2.connect, dsn)
    assert hub.watched() == watched
    with pytest.raises(psycopg2.OperationalError) as expected, blocking_dsn_connect(dsn):
        pass
    assert ours == (expected.type, str(expected.value))


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
@pytest.mark.parametrize("garbage", [b"?\0\0\0\4", b"\xff" * 100, b"D\0\0\0\6\0\1", b"", b"C\0\0\0\2"], ids=repr)
def test_garbage_in_mid_query_raises_as_with_wait_select(garbage, connect, fake_server, to_server, hub):
    """The server is a proxy that sends garbage instead of the answer to the test's query."""

    def handle(client, number):
        server = to_server()
        proxy = threading.Thread(target=answers, args=(server, client), daemon=True)
        proxy.start()
        while data := client.recv(65536):
            if b"'the answer'" in data:
                client.sendall(garbage)
                break
            server.sendall(data)
        server.close()

    def answers(server, client):
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass

    server = fake_server(handle)

    def query():
        connection = connect(local(server.port, sslmode="disable", gssencmode="disable"))
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.01)")
        return failure(cursor.execute, "SELECT 'the answer'"), connection.closed

    assert hub.run(query) == as_with_wait_select(query, hub)


@pytest.mark.core
def test_a_silent_server_delays_no_other_greenlet(connect, fake_server, hub):
    silent = fake_server(lambda client, number: silent.over.wait())
    connection = connect()
    task = hub.spawn(connect, local(silent.port))
    with hub.ticker(0.01) as ticker:
        for _ in range(5):
            hub.run(connection.cursor().execute, "SELECT pg_sleep(0.05)")
    assert ticker.ticks >= 10
    assert ticker.longest_gap < 0.05
    assert not task.done
    task.kill(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        task.wait()


def test_a_server_that_closes_the_connection_raises_and_delays_no_other(connect, fake_server, to_server, hub):
    server = fake_server(lambda client, number: relay(client, to_server()))
    connection = connect(local(server.port, sslmode="disable", gssencmode="disable"))
    task = hub.spawn(connection.cursor().execute, "SELECT pg_sleep(0.1)")
    with hub.ticker(0.01) as ticker:
        task.wait()
        server.close()
        error = hub.run(failure, connection.cursor().execute, "SELECT 1")
    assert error[0] in (psycopg2.OperationalError, psycopg2.InterfaceError)
    assert ticker.ticks >= 4
    assert connection.closed


def test_a_refused_login_raises_as_blocking(connect, dsn, blocking_dsn_connect, hub):
    wrong = make_dsn(dsn, dbname="no such database")
    with pytest.raises(psycopg2.OperationalError) as expected, blocking_dsn_connect(wrong):
        pass
    kind, message = hub.run(failure, connect, wrong)
    assert kind is expected.type
    # While any wait callback is set, psycopg2's message does not name the server.
    assert str(expected.value).endswith(message)


@pytest.mark.skipif(NAME != "eventlet", reason="gevent resolves names in threads by itself")
def test_names_are_resolved_in_threads_without_eventlets_resolver(hub, monkeypatch):
    resolve = _socket.getaddrinfo
    threads = []

    def noted(*args, **kwargs):
        threads.append(threading.get_native_id())
        return resolve(*args, **kwargs)

    monkeypatch.setattr(_socket, "getaddrinfo", noted)
    monkeypatch.setattr(hub.adapter, "_GREENDNS", False)
    assert hub.run(hub.adapter._adapter.getaddrinfo, "localhost")
    assert threads and threading.get_native_id() not in threads
