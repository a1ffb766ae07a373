"""What works on Windows: the pure loop on gevent. The other libraries are refused, with a reason."""

import pytest
from hubs import NAME
from support.processes import run_program, run_script

pytestmark = pytest.mark.once


@pytest.mark.skipif(NAME != "gevent", reason="Windows has gevent alone")
def test_queries_kills_and_native_threads_work_on_gevent_without_what_windows_lacks(dsn):
    printed = run_program("on_windows", DSN=dsn, PSYCOGREEN_NO_EXTENSIONS="1").splitlines()
    assert printed == ["[0, 1, 2, 3, 4]", "GreenletExit", "[7]", "NotSupportedError"]


@pytest.mark.parametrize("hub", ["eventlet", "asyncio"])
def test_other_libraries_are_refused_on_windows(hub):
    script = f"""
        import asyncio, os, eventlet, eventlet.tpool, eventlet.green.socket, psycopg2
        os.name = "nt"
        try:
            import psycogreen.{hub}
        except ImportError as exc:
            print(exc)
    """
    assert "Use psycogreen.gevent" in run_script(script)
