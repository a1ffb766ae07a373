"""Programs in which a framework runs on a hub: monkey-patched, and made green."""

from collections.abc import Callable
from textwrap import dedent

import pytest

# What each program begins with, after green_program.py: the framework, set up for the server.
BEGINNINGS = {
    "django": """
        import django
        from django.conf import settings
        from psycopg2.extensions import parse_dsn

        parameters = parse_dsn("{dsn}")
        settings.configure(DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": parameters.pop("dbname"), "OPTIONS": parameters,
            "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True,
        }})
        django.setup()
        import django.db
        from django.db import close_old_connections, connection, transaction
        from psycogreen._psycopg2.connection import GreenConnection

        def active(words):
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
                               " AND pid <> pg_backend_pid()", [words])
                return cursor.fetchone()[0]

        active("warm up")
        assert isinstance(connection.connection, GreenConnection)
        """,
    "sqlalchemy": """
        import psycopg2, sqlalchemy
        from sqlalchemy import create_engine, exc, text
        from sqlalchemy.pool import QueuePool

        connect = lambda: psycopg2.connect("{dsn}", application_name="psycogreen")
        engine = create_engine("postgresql+psycopg2://", creator=connect, pool_size=5, max_overflow=5,
                               pool_pre_ping=True)
        assert type(engine.pool) is QueuePool
        monitor = create_engine("postgresql+psycopg2://", creator=connect, isolation_level="AUTOCOMMIT")

        def active(words):
            with monitor.connect() as conn:
                return conn.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                                        " AND query LIKE :q AND pid <> pg_backend_pid()"), {"q": words})

        def query(n):
            with engine.begin() as conn:
                return conn.scalar(text("SELECT :n + 0 * length(pg_sleep(0.02)::text)"), {"n": n})

        active("warm up")
        """,
    "peewee": """
        import peewee
        from playhouse.pool import PooledPostgresqlDatabase
        from playhouse.postgres_ext import PostgresqlExtDatabase, ServerSide
        from psycopg2.extensions import parse_dsn
        from psycogreen._psycopg2.connection import GreenConnection

        parameters = parse_dsn("{dsn}")
        name = parameters.pop("dbname")
        """,
    "psycopg2": """
        import psycopg2
        from psycopg2 import pool
        """,
}


@pytest.fixture
def run_with(run_script: Callable[..., str], dsn: str) -> Callable[[str, str], str]:
    """Run a *program* that begins with a *framework*, set up for the server; return what it printed.

    The test is skipped where the framework is not installed. What else the
    program finds there is in green_program.py; a ticker runs.
    """

    def run(framework: str, program: str) -> str:
        pytest.importorskip(framework)
        beginning = "from green_program import *\n" + dedent(BEGINNINGS[framework]) + "ticker = Ticker()\n"
        return run_script(beginning + dedent(program), dsn=dsn)

    return run
