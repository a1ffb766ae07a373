"""Connecting has the same outcome as in blocking libpq, and the hub runs on meanwhile."""

import functools
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from fix_faults import (
    BLACKHOLE,
    DEAF,
    HANGING_UP,
    REFUSING,
    STARTING,
    Blocking,
    Names,
    Pair,
)
from hubs.contract import Hub
from psycopg2 import extensions
from support.attempts import Attempt, attempt
from support.leaks import descriptors
from support.network import Proxy
from support.postgres import BOUNCER, PRIMARY, STANDBY

pytestmark = [
    pytest.mark.one_loop,
    pytest.mark.libpq,
    pytest.mark.usefixtures("green", "names"),
    pytest.mark.filterwarnings("ignore:please use dns.resolver:DeprecationWarning"),  # what eventlet does
]

BASE = "user=postgres dbname=postgres gssencmode=disable"

#: The seconds of connect_timeout=1. libpq 16 and earlier take it for 2.
SHORTEST = 1 if extensions.libpq_version() >= 170000 else 2


def listed(*hosts: str) -> str:
    return "host=" + ",".join(hosts)


# DSNs without BASE and the port.
TABLE = [
    listed(PRIMARY),
    listed(REFUSING),
    listed(BLACKHOLE) + " connect_timeout=1",
    listed(BLACKHOLE) + " connect_timeout=2",
    listed(DEAF) + " connect_timeout=1",
    listed(DEAF) + " connect_timeout=1 sslmode=disable",
    listed(DEAF) + " connect_timeout=1 sslmode=require",
    listed(STARTING),
    listed(HANGING_UP),
    listed(HANGING_UP) + " sslmode=disable",
    listed(BOUNCER),
    # Lists of hosts.
    listed(BLACKHOLE, PRIMARY) + " connect_timeout=1",
    listed(DEAF, PRIMARY) + " connect_timeout=1",
    listed(DEAF, STANDBY, PRIMARY) + " connect_timeout=1 sslmode=disable",
    listed(REFUSING, PRIMARY),
    listed(REFUSING, PRIMARY) + " connect_timeout=1",
    listed(STARTING, PRIMARY),
    listed(HANGING_UP, PRIMARY),
    listed(HANGING_UP, PRIMARY) + " sslmode=disable",
    listed(PRIMARY, BLACKHOLE) + " connect_timeout=1",
    listed(STANDBY, BOUNCER, PRIMARY),
    listed(REFUSING, BLACKHOLE, DEAF, STARTING) + " connect_timeout=1",
    listed(REFUSING, HANGING_UP, PRIMARY),
    listed("", PRIMARY) + f" hostaddr={REFUSING},{PRIMARY}",
    listed("some.test", "other.test") + f" hostaddr={REFUSING},{STANDBY}",
    listed("/nonexistent", PRIMARY),
    listed("@psycogreen-nobody", PRIMARY),
    listed("@psycogreen-nobody"),
    listed(BLACKHOLE, "/nonexistent") + " connect_timeout=1",
    # The choice of a host.
    *(
        f"{listed(*hosts)} target_session_attrs={wanted}"
        for wanted in ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
        for hosts in ([PRIMARY], [STANDBY], [PRIMARY, STANDBY], [STANDBY, PRIMARY], [REFUSING, STANDBY, PRIMARY])
    ),
    listed(BLACKHOLE, PRIMARY, STANDBY) + " target_session_attrs=prefer-standby connect_timeout=1",
    listed(PRIMARY, BLACKHOLE) + " target_session_attrs=prefer-standby connect_timeout=1",
    listed(DEAF, PRIMARY) + " target_session_attrs=prefer-standby connect_timeout=1",
    listed(PRIMARY, HANGING_UP) + " target_session_attrs=prefer-standby",
    listed(PRIMARY, DEAF) + " target_session_attrs=standby connect_timeout=1",
    listed(STANDBY, STARTING, DEAF, PRIMARY) + " target_session_attrs=read-write connect_timeout=1",
    # libpq stops at a wrong password. The first host here does not ask for one.
    listed(PRIMARY, STANDBY) + " user=alice password=wrong-one",
    listed(REFUSING, PRIMARY, STANDBY) + " user=alice password=wrong-one",
    listed(PRIMARY, STANDBY) + " user=alice password=secret",
    listed(PRIMARY, STANDBY) + " user=alice password=wrong-one target_session_attrs=prefer-standby",
    listed(PRIMARY, STANDBY) + " dbname=nonexistent",
    listed(PRIMARY, STANDBY) + " sslmode=require",
    # Names.
    listed("good.test"),
    listed("dead-live.test"),
    listed("dropping-live.test") + " connect_timeout=1",
    listed("deaf-live.test") + " connect_timeout=1",
    listed("dead.test") + " connect_timeout=1",
    listed("dead.test", "good.test") + " connect_timeout=1",
    listed("starting-live.test"),
    listed("starting-live.test", STANDBY),
    listed("hanging-up-live.test"),
    listed("hanging-up-live.test", STANDBY),
    listed("standby-primary.test") + " target_session_attrs=read-write",
    listed("standby-primary.test", PRIMARY) + " target_session_attrs=read-write",
    listed("primary-standby.test", STANDBY) + " target_session_attrs=prefer-standby",
    listed("primary-standby.test") + " target_session_attrs=prefer-standby",
    listed("good.test") + " user=alice password=wrong-one",
    listed("dead-live.test", STANDBY) + " user=alice password=wrong-one",
    listed("nonexistent.invalid"),
    listed("nonexistent.invalid", PRIMARY),
    listed("nonexistent.invalid", "dead-live.test"),
    listed(PRIMARY, "nonexistent.invalid"),
    listed("localhost"),
    listed("nonexistent.invalid") + f" hostaddr={PRIMARY}",
    listed("some.test") + f" hostaddr={REFUSING}",
    listed("some.test", "other.test") + f" hostaddr={REFUSING},{DEAF} connect_timeout=1",
    # Parameters that libpq refuses.
    listed(PRIMARY) + " connect_timeout=soon",
    listed(PRIMARY) + " connect_timeout=99999999999",
    listed(PRIMARY) + " connect_timeout=''",
    listed(PRIMARY) + " connect_timeout=' 2 '",
    listed(PRIMARY) + " connect_timeout=0",
    listed(PRIMARY) + " connect_timeout=-1",
    listed(PRIMARY) + " sslmode=sometimes",
    listed(PRIMARY, STANDBY) + " target_session_attrs=whatever",
    listed(PRIMARY, STANDBY) + " load_balance_hosts=perhaps",
    listed(PRIMARY, STANDBY) + " hostaddr=127.0.2.1",
    listed(PRIMARY) + " service=nonexistent",
    listed(PRIMARY) + " nonsense=1",
    listed(PRIMARY) + " port=1,2",
]


Same = Callable[..., Attempt]


@pytest.fixture
def assert_same(hub: Hub, pair: Pair, blocking: Blocking) -> Same:
    """Connect with blocking and with green psycopg2; return the outcome, which must be the same."""

    def assert_same(dsn: str, **keywords: Any) -> Attempt:
        expected = blocking.connect(extensions.make_dsn(dsn, **keywords) if keywords else dsn)
        with hub.ticker() as ticker:
            got = hub.run(attempt, lambda: psycopg2.connect(dsn, **keywords))
        oracle = expected()
        assert got.server == oracle.server
        assert worded(hub, got) == worded(hub, oracle)
        # All time limits here are a second or longer.
        assert abs(got.seconds - oracle.seconds) < 0.7
        assert ticker.longest_gap < 0.05
        return got

    return assert_same


def worded(hub: Hub, attempt: Attempt) -> list[str] | None:
    # The resolvers have their own words for the reason.
    if attempt.error is None or hub.name == "gevent":
        return attempt.error
    return [re.sub("(to address: ).*", r"\1...", text) for text in attempt.error]


@pytest.mark.parametrize("hosts", TABLE)
def test_connecting_ends_as_with_blocking_libpq(assert_same: Same, pair: Pair, hosts: str) -> None:
    assert_same(f"{BASE} port={pair.port} {hosts}")


@pytest.mark.parametrize(
    ("environment", "dsn"),
    [
        ({"PGCONNECT_TIMEOUT": "1"}, listed(DEAF)),
        ({"PGCONNECT_TIMEOUT": "1"}, listed(BLACKHOLE, PRIMARY)),
        ({"PGCONNECT_TIMEOUT": "never"}, listed(PRIMARY)),
        ({"PGCONNECT_TIMEOUT": "9"}, listed(DEAF) + " connect_timeout=1"),
        ({"PGHOST": "dead-live.test"}, ""),
        ({"PGHOST": f"{DEAF},{STANDBY}", "PGCONNECT_TIMEOUT": "1"}, ""),
        ({"PGHOST": f"{STANDBY},{PRIMARY}", "PGTARGETSESSIONATTRS": "read-write"}, ""),
        ({"PGHOSTADDR": f"{REFUSING},{STANDBY}", "PGHOST": "one.test,two.test"}, ""),
        ({"PGHOSTADDR": PRIMARY}, listed("nonexistent.invalid")),
        ({"PGHOSTADDR": PRIMARY}, listed("good.test", REFUSING)),
        ({"PGSERVICE": "deaf"}, ""),
        ({}, "service=deaf"),
        ({}, "service=named"),
        ({"PGHOST": BLACKHOLE}, "service=named"),
        ({}, "service=several"),
        ({}, "service=several " + listed("dead-live.test")),
    ],
)
def test_environment_and_service_files_are_used_as_blocking(
    assert_same: Same,
    pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    dsn: str,
) -> None:
    services = tmp_path / "services"
    services.write_text(
        f"[deaf]\nhost={DEAF}\nconnect_timeout=1\n[named]\nhost=dead-live.test\n"
        f"[several]\nhost={BLACKHOLE},{STANDBY},{PRIMARY}\nconnect_timeout=1\ntarget_session_attrs=read-write\n"
    )
    for name, value in {"PGSERVICEFILE": str(services), "PGPORT": str(pair.port), **environment}.items():
        monkeypatch.setenv(name, value)
    assert_same(f"{BASE} {dsn}")


def test_uris_and_keywords_are_equivalent(assert_same: Same, pair: Pair) -> None:
    uri = f"postgresql://postgres@{DEAF}:{pair.port},dead-live.test:{pair.port}/postgres"
    assert assert_same(uri + "?connect_timeout=1&gssencmode=disable").server == PRIMARY
    assert assert_same(uri, connect_timeout=1).server == PRIMARY
    keywords = {"host": f"{REFUSING},{STANDBY}", "port": pair.port, "user": "postgres", "dbname": "postgres"}
    assert assert_same("", **keywords).server == STANDBY


def test_a_unix_socket_is_passed_to_libpq_unchanged(hub: Hub, assert_same: Same, pair: Pair) -> None:
    dsn = f"{BASE} host={pair.socket} port={pair.port} connect_timeout=3"
    assert assert_same(dsn).error is None
    connection = hub.run(psycopg2.connect, dsn)
    assert connection.dsn == dsn
    connection.close()


@pytest.mark.skipif(extensions.libpq_version() < 160000, reason="libpq 16 brings load_balance_hosts")
def test_load_is_balanced_over_hosts_and_addresses(hub: Hub, pair: Pair) -> None:
    def servers(dsn: str) -> set[str | None]:
        connected = set()
        for _ in range(40):
            got = attempt(lambda: psycopg2.connect(f"{BASE} port={pair.port} load_balance_hosts=random {dsn}"))
            assert got.error is None
            connected.add(got.server)
        return connected

    assert hub.run(servers, listed(PRIMARY, STANDBY, BOUNCER)) == {PRIMARY, STANDBY, BOUNCER}
    assert hub.run(servers, listed(PRIMARY, REFUSING, STANDBY)) == {PRIMARY, STANDBY}
    assert hub.run(servers, listed("standby-primary.test")) == {PRIMARY, STANDBY}
    assert hub.run(servers, listed("standby-primary.test", BOUNCER)) == {PRIMARY, STANDBY, BOUNCER}


def test_slow_names_are_resolved_side_by_side(hub: Hub, pair: Pair, names: Names) -> None:
    names.seconds = 2
    dsn = f"{BASE} port={pair.port} host=good.test"
    begun = time.monotonic()
    with hub.ticker() as ticker:
        tasks = [hub.spawn(psycopg2.connect, dsn) for _ in range(20)]
        for task in tasks:
            task.wait().close()
    assert 2 <= time.monotonic() - begun < 3
    assert ticker.longest_gap < 0.05


def test_the_connection_shows_the_name_as_its_host(hub: Hub, tls_dsn: str, names: Names) -> None:
    # The certificate is for localhost, and sslmode is verify-full: libpq checks the name.
    given = extensions.parse_dsn(tls_dsn)
    assert given.pop("hostaddr") == "127.0.0.1"
    connection = hub.run(functools.partial(psycopg2.connect, **given))
    assert connection.info.ssl_in_use
    assert connection.info.host == "localhost"
    connection.close()
    names["elsewhere.test"] = ["127.0.0.1"]
    with pytest.raises(psycopg2.OperationalError, match='does not match host name "elsewhere.test"'):
        hub.run(functools.partial(psycopg2.connect, **{**given, "host": "elsewhere.test"}))


def test_the_password_file_is_searched_by_name(assert_same: Same, pair: Pair, tmp_path: Path) -> None:
    pgpass = tmp_path / "pgpass"
    pgpass.write_text(f"good.test:{pair.port}:*:alice:secret\n{REFUSING}:*:*:alice:wrong\n")
    pgpass.chmod(0o600)
    dsn = f"{BASE} port={pair.port} user=alice passfile={pgpass}"
    assert assert_same(f"{dsn} host=good.test").server == PRIMARY
    assert assert_same(f"{dsn} host={REFUSING},good.test").server == PRIMARY
    assert assert_same(f"{dsn} host={PRIMARY}").error


PLACES_TO_WAIT = [
    listed(BLACKHOLE),
    listed(DEAF),
    listed(REFUSING, DEAF) + " connect_timeout=20",
    listed("deaf-live.test") + " connect_timeout=20",
]


def sockets() -> set[str]:
    """Return the inodes of this process's sockets."""
    return {link for link in descriptors().values() if link.startswith("socket:")}


@pytest.mark.parametrize("hosts", PLACES_TO_WAIT)
@pytest.mark.parametrize("way", ["kill", "timeout"])
def test_an_interrupted_connect_leaves_nothing_open(hub: Hub, pair: Pair, hosts: str, way: str) -> None:
    before = sockets()
    watched = hub.watched()

    def connect() -> None:
        if way == "kill":
            psycopg2.connect(f"{BASE} port={pair.port} {hosts}")
        else:
            with hub.Timeout(0.3):
                psycopg2.connect(f"{BASE} port={pair.port} {hosts}")

    task = hub.spawn(connect)
    hub.wait_until(lambda: sockets() - before)
    if way == "kill":
        task.kill()
    with pytest.raises(BaseException) as caught:
        task.wait()
    assert isinstance(caught.value, hub.Timeout if way == "timeout" else hub.Kill)
    # The exception still exists, and keeps the frames of its traceback.
    assert not sockets() - before
    assert hub.watched() == watched


def test_an_expired_connect_timeout_leaves_nothing_open(hub: Hub, pair: Pair) -> None:
    before = sockets()
    with pytest.raises(psycopg2.OperationalError) as caught:
        hub.run(psycopg2.connect, f"{BASE} port={pair.port} host={DEAF},{BLACKHOLE},{REFUSING} connect_timeout=1")
    assert not sockets() - before
    message = str(caught.value)
    for host, why in ((DEAF, "timeout expired"), (BLACKHOLE, "timeout expired"), (REFUSING, "Connection refused")):
        assert f'connection to server at "{host}", port {pair.port} failed: {why}\n' in message


@pytest.mark.parametrize(
    "hosts",
    [
        listed(DEAF, PRIMARY) + " connect_timeout=1",
        listed(REFUSING, "nonexistent.invalid", DEAF) + " connect_timeout=1",
        listed("good.test"),
        listed(PRIMARY) + " connect_timeout=never",
        listed(PRIMARY, PRIMARY, PRIMARY) + " port=1,2",
        listed(PRIMARY) + " sslmode=never",
    ],
)
def test_errors_hide_passwords(hub: Hub, pair: Pair, hosts: str) -> None:
    secret = "nobody tell"[::-1].replace(" ", "-")  # a traceback shows the lines of this function too
    with pytest.raises(psycopg2.Error) as caught:
        hub.run(psycopg2.connect, f"{BASE} port={pair.port} user=alice password={secret} {hosts}")
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in "".join(traceback.format_exception(error)) + repr(error)
        error = error.__context__


def test_connect_timeout_covers_psycopg2s_set_up_queries(hub: Hub, pair: Pair) -> None:
    # With another DateStyle than ISO, psycopg2 sends a query while connecting.
    proxy = Proxy(PRIMARY, pair.port)
    options = (
        f"options='-c datestyle=German' user=postgres dbname=postgres sslmode=disable port={proxy.port},{pair.port}"
    )
    dsn = f"{options} gssencmode=disable host=127.0.0.1,{STANDBY} connect_timeout=1"
    try:
        assert hub.run(attempt, lambda: psycopg2.connect(dsn)).server == "127.0.0.1"
        proxy.allowance = proxy.sent - len("Q....SET datestyle TO 'ISO'.") - len("X....") + proxy.sent
        begun = time.monotonic()
        got = hub.run(attempt, lambda: psycopg2.connect(dsn))
        assert got.server == STANDBY
        assert SHORTEST - 0.1 < time.monotonic() - begun < SHORTEST + 1
    finally:
        proxy.close()


def test_a_thread_without_a_hub_tries_all_hosts_under_connect_timeout(hub: Hub, pair: Pair) -> None:
    def connect(hosts: str) -> Attempt:
        got = attempt(lambda: psycopg2.connect(f"{BASE} port={pair.port} {hosts}"))
        assert hub.current() is None
        return got

    with hub.ticker() as ticker:
        got = hub.run_in_thread(connect, listed(DEAF, BLACKHOLE, PRIMARY) + " connect_timeout=1")
    assert got.server == PRIMARY
    assert 2 * SHORTEST - 0.1 < got.seconds < 2 * SHORTEST + 1
    assert ticker.longest_gap < 0.05
    got = hub.run_in_thread(connect, listed("localhost", DEAF) + " connect_timeout=1")
    assert got.error and "localhost" in got.error[1] and "timeout expired" in got.error[1]


def test_the_environment_is_used_where_libpq_is_out_of_reach(
    assert_same: Same, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> None:
        raise psycopg2.NotSupportedError("the libpq inside psycopg2 can't be reached")

    monkeypatch.setattr("psycogreen._libpq.conninfo.libpq", unreachable)
    monkeypatch.setenv("PGHOST", f"{DEAF},dead-live.test")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "1")
    assert assert_same(f"{BASE} port={pair.port}").server == PRIMARY


@pytest.mark.parametrize("hosts", [listed(PRIMARY), listed("good.test"), listed(REFUSING, "good.test", STANDBY)])
def test_a_connection_shows_the_users_dsn(hub: Hub, pair: Pair, hosts: str) -> None:
    dsn = f"{BASE} port={pair.port} {hosts}"
    connection = hub.run(psycopg2.connect, dsn)
    assert connection.dsn == dsn
    connection.close()
    connection = hub.run(psycopg2.connect, f"{dsn} password=secret")
    assert "secret" not in connection.dsn + repr(connection)
    assert extensions.parse_dsn(connection.dsn) == extensions.parse_dsn(f"{dsn} password=xxx")
    connection.close()


def test_asynchronous_connections_are_left_to_psycopg2(hub: Hub, pair: Pair) -> None:
    connection = psycopg2.connect(f"{BASE} port={pair.port} host={PRIMARY}", async_=True)
    assert connection.async_
    connection.close()
