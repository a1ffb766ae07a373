"""Frameworks and pools on green connections, and the examples that use them.

framework_suites.py runs the frameworks' own test suites.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.request import urlopen

import pytest
from support.network import answers, free_port
from support.processes import PROGRAMS as PROGRAMS_DIRECTORY
from support.processes import PYTHON, ROOT, child_environment, run_program, running
from support.waiting import wait_until

EXAMPLES = ROOT / "examples"

#: For PYTHONPATH: Django then takes psycopg2.
WITHOUT_PSYCOPG3 = str(PROGRAMS_DIRECTORY / "without_psycopg3")


# The whole of a framework, which does not see the loop.
whole = pytest.mark.one_loop


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("program", "framework"),
    [
        ("django_requests", "django"),
        ("django_close_and_kill", "django"),
        pytest.param("django_orm", "django", marks=whole),
        ("sqlalchemy_pool", "sqlalchemy"),
        ("sqlalchemy_kills", "sqlalchemy"),
        ("sqlalchemy_in_mid_query", "sqlalchemy"),
        pytest.param("peewee_pools", "peewee", marks=whole),
        pytest.param("psycopg2_pools", "psycopg2", marks=whole),
    ],
)
def test_a_program_of_a_framework_succeeds(program: str, framework: str, dsn: str) -> None:
    """The docstring of each program says what it does and checks."""
    pytest.importorskip(framework)
    run_program(program, DSN=dsn, DRIVER="psycopg2", PYTHONPATH=WITHOUT_PSYCOPG3)


@pytest.mark.heavy
@whole
@pytest.mark.parametrize(
    ("program", "module", "pool"),
    [
        ("django_requests", "django", ""),
        ("django_requests", "django", "with psycopg's pool"),
        ("django_close_and_kill", "django", ""),
        ("django_close_and_kill", "django", "with psycopg's pool"),
        ("django_orm", "django", ""),
        ("sqlalchemy_pool", "sqlalchemy", ""),
        ("sqlalchemy_kills", "sqlalchemy", ""),
        ("sqlalchemy_in_mid_query", "sqlalchemy", ""),
        ("psycopg3_pool", "psycopg_pool", ""),
    ],
)
def test_a_program_succeeds_with_psycopg_3(program: str, module: str, pool: str, dsn: str) -> None:
    pytest.importorskip(module)
    run_program(program, DSN=dsn, DRIVER="psycopg", POOL=pool)


@pytest.mark.heavy
@whole
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_sqlalchemys_orm_succeeds(driver: str, tls_dsn: str) -> None:
    """On the server that allows two phases."""
    pytest.importorskip("sqlalchemy")
    run_program("sqlalchemy_orm", DSN=tls_dsn, DRIVER=driver)


@pytest.fixture
def libpq_variables(dsn: str) -> Iterator[dict[str, str]]:
    """Environment variables that name the server. Drops the examples' tables afterwards."""
    import psycopg2
    from psycopg2.extensions import parse_dsn

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    yield {names[key]: value for key, value in parse_dsn(dsn).items() if key in names}
    conn = psycopg2.connect(dsn)
    conn.autocommit = True
    cur = conn.cursor()
    cur.execute("SELECT relname FROM pg_class WHERE relname LIKE 'example\\_%' AND relkind = 'r'")
    for (table,) in cur.fetchall():
        cur.execute(f"DROP TABLE {table} CASCADE")
    conn.close()


def example(stack: str, hub: str, variables: dict[str, str]) -> AbstractContextManager[Any]:
    """Run an example."""
    return running([*PYTHON, EXAMPLES / stack / f"on_{hub}.py"], env=child_environment(**variables))


@pytest.mark.once
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize(
    "stack, results, url",
    [
        ("sqlalchemy", [6 * n for n in range(40)], "postgresql+psycopg2://"),
        ("sqlalchemy", [6 * n for n in range(40)], "postgresql+psycopg://"),
        ("peewee", [1] * 40, ""),
        ("psycopg2_pool", [2 * n for n in range(40)], ""),
    ],
)
def test_an_example_overlaps_its_queries(
    stack: str, results: list[int], url: str, hub: str, libpq_variables: dict[str, str]
) -> None:
    pytest.importorskip(stack.partition("_")[0])
    with example(stack, hub, {**libpq_variables, "DATABASE_URL": url}) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    numbers, elapsed = out.splitlines()
    assert numbers == " ".join(map(str, results))
    seconds = float(elapsed.removeprefix("40 times 0.1 s on 5 connections: ").removesuffix(" s"))
    # One after the other, the queries take 4 seconds; five at a time, 0.8.
    assert 0.8 <= seconds < 2.5


@contextmanager
def served(stack: str, hub: str, variables: dict[str, str]) -> Iterator[str]:
    """Run the server of an example; yield its address."""
    port = free_port()
    with example(stack, hub, {**variables, "PORT": str(port)}) as process:
        wait_until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}"


def get(url: str) -> str:
    with urlopen(url, timeout=30) as response:
        return response.read().decode()


@pytest.mark.once
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize("path", [WITHOUT_PSYCOPG3, ""], ids=["psycopg2", "psycopg"])
def test_the_django_example_overlaps_its_requests(hub: str, path: str, libpq_variables: dict[str, str]) -> None:
    pytest.importorskip("django")
    with served("django", hub, {**libpq_variables, "PYTHONPATH": path}) as url, ThreadPoolExecutor(20) as browsers:
        started = time.monotonic()
        pages = list(browsers.map(get, [f"{url}/visit/somebody"] * 20))
        took = time.monotonic() - started
        assert len(pages) == 20 and '{"visits": 20}' in pages
        assert 0.3 <= took < 3  # 6 seconds one after the other
        assert get(f"{url}/visits").splitlines() == ["somebody"] * 20


@pytest.mark.once
def test_the_django_db_geventpool_example_shares_its_pool(libpq_variables: dict[str, str]) -> None:
    pytest.importorskip("django_db_geventpool")
    variables = {**libpq_variables, "PYTHONPATH": WITHOUT_PSYCOPG3}
    with served("django_db_geventpool", "gevent", variables) as url, ThreadPoolExecutor(20) as browsers:
        # At the first rush the pool opens too many connections: it counts them before it connects.
        list(browsers.map(get, [f"{url}/backend"] * 20))
        started = time.monotonic()
        pages = list(browsers.map(get, [f"{url}/backend"] * 20))
        took = time.monotonic() - started
        assert len(set(pages)) == 5
        assert 0.4 <= took < 1.5  # 2 seconds one after the other
