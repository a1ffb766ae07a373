"""Importing psycogreen loads and changes as little as possible."""

import pytest
from hubs import NAME
from support.processes import run_program, run_script

import psycogreen

pytestmark = pytest.mark.heavy

OTHERS = {"gevent", "eventlet"} - {NAME}
# What the libraries themselves import.
BROUGHT_ALONG = {"ctypes"} if NAME == "eventlet" else set()


@pytest.mark.core
@pytest.mark.parametrize("module", ["psycogreen", "psycogreen._implementation"])
def test_the_package_alone_imports_no_hub(module):
    loaded = run_script(f"import {module}, sys; print(*sys.modules)").split()
    assert not {"gevent", "eventlet", "psycopg2", "psycopg", "ctypes"} & set(loaded)


@pytest.mark.core
def test_the_package_alone_imports_nothing_else():
    before, after = (set(run_script(f"import sys{more}; print(*sys.modules)").split()) for more in ("", ", psycogreen"))
    assert after - before == {"psycogreen"}


@pytest.mark.core
def test_an_adapter_imports_its_own_hub_only():
    loaded = run_script(f"import psycogreen.{NAME}, sys; print(*sys.modules)").split()
    assert NAME in loaded
    assert not (OTHERS | {"psycopg2", "psycopg", "ctypes"} - BROUGHT_ALONG) & set(loaded)


@pytest.mark.core
def test_without_the_gil_an_adapter_cant_be_imported():
    script = f"""
        import sys
        sys._is_gil_enabled = lambda: False
        try:
            import psycogreen.{NAME}
        except ImportError as exc:
            print(exc)
    """
    assert run_script(script) == "psycogreen needs the GIL, which is disabled in this process: set PYTHON_GIL=1"


@pytest.mark.skipif(psycogreen.implementation == "python", reason="the compiled loop is not in use")
def test_with_an_old_greenlet_the_loop_is_the_pure_one():
    script = """
        import greenlet
        greenlet.__version__ = "1.1.3.post0"
        from psycogreen._implementation import implementation, why_pure
        print(implementation, why_pure)
    """
    why = "the compiled loop can't be imported: it needs greenlet 2 or later, and greenlet 1.1.3.post0 is installed"
    assert run_script(script) == f"python {why}"


def test_importing_an_adapter_makes_no_hub_and_patches_nothing():
    assert run_program("importing", NAME).split() == ["True"] * 3


@pytest.mark.core
def test_code_written_for_the_old_release_runs(dsn):
    assert run_program("old_release", NAME, DSN=dsn).split() == ["1", "1"]


@pytest.mark.core
def test_the_names_are_those_of_the_old_release(hub):
    import inspect

    import psycogreen

    assert psycogreen.implementation in ("cython", "python")
    assert psycogreen.poller in (("epoll", "kqueue") if psycogreen.implementation == "cython" else (None,))
    assert hub.adapter.make_psycopg_green is hub.adapter.patch_psycopg
    callback = hub.wait_callback
    assert callback is getattr(hub.adapter, f"{NAME}_wait_callback")
    assert callback.__name__ == f"{NAME}_wait_callback"
    assert callback.__doc__
    default = -1 if NAME == "eventlet" else None
    assert inspect.signature(callback).parameters["timeout"].default == default
    assert list(inspect.signature(callback).parameters) == ["conn", "timeout"]


@pytest.mark.parametrize("value, implementation", [("1", "python"), ("", None), ("0", None)])
def test_the_environment_forces_the_pure_loop(value, implementation, monkeypatch):
    monkeypatch.setenv("PSYCOGREEN_NO_EXTENSIONS", value)
    if implementation is None:
        try:
            import psycogreen._waitloop  # noqa: F401
        except ImportError:
            implementation = "python"
        else:
            implementation = "cython"
    assert run_script("import psycogreen; print(psycogreen.implementation)") == implementation


def test_without_psycopg2_the_error_names_the_package_to_install():
    assert "psycopg2-binary" in run_program("psycopg2_unfit", NAME, "missing")


def test_a_psycopg2_without_wait_callbacks_raises():
    assert "not available in this Psycopg version" in run_program("psycopg2_unfit", NAME, "without_callbacks")
