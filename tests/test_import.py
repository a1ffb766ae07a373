"""What importing does, and what it leaves alone."""

import pytest
from fix_hub import NAME

OTHERS = {"gevent", "eventlet"} - {NAME}


@pytest.mark.core
@pytest.mark.parametrize("module", ["psycogreen", "psycogreen._implementation"])
def test_the_package_alone_imports_no_hub(module, run_script):
    loaded = run_script("import {module}, sys; print(*sys.modules)", module=module).split()
    assert not {"gevent", "eventlet", "psycopg2"} & set(loaded)


@pytest.mark.core
def test_an_adapter_imports_its_own_hub_only(run_script):
    script = "import psycogreen.{hub}, sys; print(*sys.modules)"
    loaded = run_script(script, hub=NAME).split()
    assert NAME in loaded
    assert not (OTHERS | {"psycopg2"}) & set(loaded)


def test_importing_an_adapter_makes_no_hub_and_patches_nothing(run_script):
    script = """
        import select, socket, threading
        before = [dict(vars(module)) for module in (select, socket, threading)]
        import psycogreen.{hub}
        if "{hub}" == "gevent":
            from gevent._hub_local import get_hub_if_exists
            print(get_hub_if_exists() is None)
        elif "{hub}" == "eventlet":
            import eventlet.hubs
            print(not hasattr(eventlet.hubs._threadlocal, "hub"))
        else:
            import asyncio
            print(asyncio._get_running_loop() is None)
        print(before == [dict(vars(module)) for module in (select, socket, threading)])
        import psycopg2.extensions
        print(psycopg2.extensions.get_wait_callback() is None)
    """
    assert run_script(script, hub=NAME).split() == ["True"] * 3


@pytest.mark.core
def test_code_written_for_the_old_release(run_script, dsn):
    script = """
        from functools import partial
        import psycopg2
        from psycopg2.extensions import get_wait_callback, set_wait_callback
        import psycogreen
        from psycogreen.{hub} import patch_psycopg, {hub}_wait_callback
        assert psycogreen.__version__
        patch_psycopg()
        assert get_wait_callback() is {hub}_wait_callback
        for callback in {hub}_wait_callback, partial({hub}_wait_callback, timeout=1):
            set_wait_callback(callback)
            connection = psycopg2.connect("{dsn}")
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            print(cursor.fetchone()[0])
    """
    assert run_script(script, hub=NAME, dsn=dsn).split() == ["1", "1"]


@pytest.mark.core
def test_the_names(hub):
    import inspect

    import psycogreen

    assert psycogreen.implementation in ("cython", "python")
    assert hub.adapter.make_psycopg_green is hub.adapter.patch_psycopg
    callback = hub.wait_callback
    assert callback is getattr(hub.adapter, f"{NAME}_wait_callback")
    assert callback.__name__ == f"{NAME}_wait_callback"
    assert callback.__doc__
    default = -1 if NAME == "eventlet" else None
    assert inspect.signature(callback).parameters["timeout"].default == default
    assert list(inspect.signature(callback).parameters) == ["conn", "timeout"]


@pytest.mark.parametrize("value, implementation", [("1", "python"), ("", None), ("0", None)])
def test_the_environment_forces_the_pure_loop(value, implementation, run_script, monkeypatch):
    monkeypatch.setenv("PSYCOGREEN_NO_EXTENSIONS", value)
    if implementation is None:
        try:
            import psycogreen._waitloop  # noqa: F401
        except ImportError:
            implementation = "python"
        else:
            implementation = "cython"
    assert run_script("import psycogreen; print(psycogreen.implementation)") == implementation


def test_without_psycopg2(run_script):
    script = """
        import sys
        sys.modules["psycopg2"] = None
        from psycogreen.{hub} import make_psycopg_green
        try:
            make_psycopg_green()
        except ImportError as exc:
            print(exc)
    """
    assert "psycopg2-binary" in run_script(script, hub=NAME)


def test_a_psycopg2_without_wait_callbacks(run_script):
    script = """
        import psycopg2.extensions
        del psycopg2.extensions.set_wait_callback
        from psycogreen.{hub} import make_psycopg_green
        try:
            make_psycopg_green()
        except ImportError as exc:
            print(exc)
    """
    assert "not available in this Psycopg version" in run_script(script, hub=NAME)
