"""The parameters that a connection shows, and errors that mention SENTINEL_HOST."""

from typing import Any

import psycopg2
import pytest
from fix_faults import Blocking, Names, Pair
from hubs.contract import Hub
from psycopg2 import extensions
from support.attempts import attempt
from support.postgres import PRIMARY, STANDBY

pytestmark = [
    pytest.mark.usefixtures("green", "names"),
    pytest.mark.filterwarnings("ignore:please use dns.resolver:DeprecationWarning"),  # what eventlet does
]

BASE = "user=postgres dbname=postgres gssencmode=disable"


@pytest.mark.parametrize(
    "hosts",
    [
        f"host={PRIMARY}",
        "host=dead-live.test",
        f"host={STANDBY},dead-live.test target_session_attrs=read-write",
        f"host={STANDBY},{PRIMARY} load_balance_hosts=random",
        "host=primary-standby.test target_session_attrs=prefer-standby",
    ],
)
def test_a_connection_shows_the_parameters_that_the_user_gave(hub: Hub, pair: Pair, hosts: str) -> None:
    dsn = f"{BASE} port={pair.port} {hosts}"
    connection = hub.run(psycopg2.connect, dsn)
    asked = extensions.parse_dsn(dsn)
    for parameters in connection.get_dsn_parameters(), connection.info.dsn_parameters:
        assert {name: parameters[name] for name in asked} == asked
        assert "hostaddr" not in parameters
    assert isinstance(connection.info, extensions.ConnectionInfo)
    assert connection.info.port == pair.port
    assert connection.info.host in asked["host"].split(",")
    assert connection.dsn == dsn
    assert "255.255" not in repr(connection)
    connection.close()


def test_a_connection_class_sees_the_parameters_in_its_constructor(hub: Hub, pair: Pair) -> None:
    seen = []

    class Curious(extensions.connection):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            seen.append((self.dsn, self.get_dsn_parameters()["host"]))

    dsn = f"{BASE} port={pair.port} host=dead-live.test"
    hub.run(lambda: psycopg2.connect(dsn, connection_factory=Curious)).close()
    assert seen == [(dsn, "dead-live.test")]


def test_a_connection_of_an_unhashable_class_has_a_dsn(hub: Hub, pair: Pair) -> None:
    class Unhashable(extensions.connection):  # type: ignore[misc]
        __hash__ = None  # type: ignore[assignment]

    dsn = f"{BASE} port={pair.port} host=dead-live.test"
    connection = hub.run(lambda: psycopg2.connect(dsn, connection_factory=Unhashable))
    assert connection.dsn == dsn
    connection.close()


@pytest.mark.parametrize("hosts", [PRIMARY, f"{PRIMARY},{STANDBY}", "good.test"])
@pytest.mark.parametrize("name", ["user", "dbname"])
def test_the_sentinel_host_given_by_a_user_raises_as_any_host(
    hub: Hub, pair: Pair, blocking: Blocking, hosts: str, name: str
) -> None:
    given = extensions.make_dsn(BASE, port=pair.port, host=hosts, **{name: "255.255.255.255"})
    expected = blocking.connect(given)()
    got = hub.run(attempt, lambda: psycopg2.connect(given))
    assert expected.error and "255.255.255.255" in expected.error[1]
    assert got.error == expected.error


def test_a_changed_environment_is_used_for_a_known_dsn(
    hub: Hub, pair: Pair, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = f"{BASE} port={pair.port}"
    for host in PRIMARY, STANDBY, PRIMARY, "dead-live.test":
        monkeypatch.setenv("PGHOST", host)
        connection = hub.run(psycopg2.connect, dsn)
        assert connection.info.host == host
        connection.close()
