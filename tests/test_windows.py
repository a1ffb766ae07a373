"""On Windows, the pure loop works on gevent. The other libraries raise ImportError, with a reason."""

import pytest
from hubs import NAME
from support.processes import run_program, run_script

pytestmark = pytest.mark.once


@pytest.mark.skipif(NAME != "gevent", reason="on Windows only gevent works")
def test_gevent_works_with_only_the_functions_that_windows_has(dsn):
    printed = run_program("on_windows", DSN=dsn, PSYCOGREEN_NO_EXTENSIONS="1").splitlines()
    assert printed == ["[0, 1, 2, 3, 4]", "GreenletExit", "[7]", "NotSupportedError"]


@pytest.mark.parametrize("hub", ["eventlet", "asyncio"])
def test_other_libraries_raise_on_windows(hub):
    script = f"""
        import asyncio, os, eventlet, eventlet.tpool, eventlet.green.socket, psycopg2
        os.name = "nt"
        try:
            import psycogreen.{hub}
        except ImportError as exc:
            print(exc)
    """
    assert "Use psycogreen.gevent" in run_script(script)
