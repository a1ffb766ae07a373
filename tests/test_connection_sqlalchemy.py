"""SQLAlchemy's pool on green connections."""

import pytest
from support.processes import run_program

pytestmark = pytest.mark.heavy


@pytest.mark.timeout(60)
def test_greenlets_share_the_pool(dsn: str) -> None:
    pytest.importorskip("sqlalchemy")
    run_program("sqlalchemy_pool", DSN=dsn)


@pytest.mark.timeout(60)
def test_killed_queries_end_and_the_pool_goes_on(dsn: str) -> None:
    pytest.importorskip("sqlalchemy")
    run_program("sqlalchemy_kills", DSN=dsn)


@pytest.mark.timeout(60)
def test_closing_in_mid_query_ends_the_query(dsn: str) -> None:
    pytest.importorskip("sqlalchemy")
    run_program("sqlalchemy_in_mid_query", DSN=dsn)
