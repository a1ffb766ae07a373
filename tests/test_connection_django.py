"""Django's connections on green ones."""

import pytest
from support.processes import run_program

pytestmark = pytest.mark.heavy


@pytest.mark.timeout(60)
def test_requests_keep_their_connection(dsn: str) -> None:
    pytest.importorskip("django")
    run_program("django_requests", DSN=dsn)


@pytest.mark.timeout(60)
def test_close_and_kill_end_the_query(dsn: str) -> None:
    pytest.importorskip("django")
    run_program("django_close_and_kill", DSN=dsn)
