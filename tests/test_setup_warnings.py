"""A wrong set-up warns once, and the warning says what to do. Wrong options raise."""

import functools
import sys
import types
from importlib import import_module

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import set_wait_callback
from support.processes import run_script

import psycogreen
from psycogreen import SetupWarning, _setup_warnings
from psycogreen._psycopg2 import activate

pytestmark = pytest.mark.library

OTHER = "eventlet" if NAME == "gevent" else "gevent"

patching = pytest.mark.skipif(NAME == "asyncio", reason="asyncio patches nothing")


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    """Let each test begin without warnings given, as a new process does."""
    monkeypatch.setattr(_setup_warnings, "_given", set())


@pytest.fixture
def make_green(hub):
    yield hub.adapter.make_psycopg_green
    set_wait_callback(None)


def wait_select(connection):
    psycopg2.extras.wait_select(connection)


def test_another_callback_in_our_place_warns_once(connect, dsn):
    set_wait_callback(wait_select)
    with pytest.warns(SetupWarning, match="wait_select is registered with psycopg2 in place of psycogreen's") as given:
        connect()
    assert given[0].filename == connect.__code__.co_filename
    connect()  # would raise


def test_a_paused_callback_does_not_warn(connect):
    set_wait_callback(None)
    connect()


def test_another_adapter_warns(make_green):
    make_green()
    other = import_module(f"psycogreen.{OTHER}")
    with pytest.warns(SetupWarning, match=rf"psycogreen.{OTHER}.make_psycopg_green\(\) was called after .*\.{NAME}, "):
        other.make_psycopg_green()
    set_wait_callback(None)
    make_green()  # unregistered before, so no warning


def test_other_options_warn(make_green):
    make_green(cancel=False)
    make_green(cancel=False)
    with pytest.warns(SetupWarning, match=r"called again, with cancel=True \(before: False\)") as given:
        make_green()
    assert given[0].filename == __file__


def test_connections_made_before_warn(make_green, blocking_dsn_connect, monkeypatch):
    monkeypatch.setattr(activate, "_registered", None)
    with blocking_dsn_connect():
        with pytest.warns(SetupWarning, match="not green, made before"):
            make_green()
        make_green()


def test_another_librarys_hub_warns(dsn):
    script = """
        import importlib, sys, warnings
        adapter, running, dsn = sys.argv[1:]
        import psycopg2
        green = importlib.import_module(f"psycogreen.{adapter}").make_psycopg_green
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            green()
            psycopg2.connect(dsn).close()  # no hub yet
            assert not given, given[0]
            if running == "gevent":
                import gevent
                gevent.joinall([gevent.spawn(psycopg2.connect, dsn)])
            else:
                import eventlet
                eventlet.spawn(psycopg2.connect, dsn).wait()
            for warning in given:
                if warning.category.__name__ == "SetupWarning":
                    print(warning.message)
    """
    assert run_script(script, NAME, OTHER, dsn) == (
        f"{OTHER} runs in this thread, and the wait callback is that of {NAME}:"
        f" queries run one after the other. Call psycogreen.{OTHER}.make_psycopg_green()"
    )


@patching
def test_a_framework_without_monkey_patching_warns(connect, hub, monkeypatch):
    hub.sleep()  # creates the hub
    for module in _setup_warnings._FRAMEWORKS:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "django.db", types.ModuleType("django.db"))
    with pytest.warns(SetupWarning, match=f"Django is used on {NAME}, and the standard library is not monkey-patched"):
        hub.run(connect)
    assert "Django is used" in hub.run(psycogreen.status).problems[0]


@patching
def test_a_patched_framework_does_not_warn(dsn):
    patch = {"gevent": "gevent.monkey; gevent.monkey.patch_all()", "eventlet": "eventlet; eventlet.monkey_patch()"}
    script = f"""
        import {patch[NAME]}
        import sys, types, warnings, psycopg2, time
        sys.modules["peewee"] = types.ModuleType("peewee")
        from psycogreen.{NAME} import make_psycopg_green
        make_psycopg_green()
        time.sleep(0.001)
        warnings.simplefilter("error")
        psycopg2.connect(sys.argv[1]).close()
        print("fine")
    """
    assert run_script(script, dsn) == "fine"


@patching
def test_uwsgi_that_does_not_run_the_library_warns(make_green, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={"processes": b"1"}))
    with pytest.warns(SetupWarning, match=f"uWSGI does not run {NAME}"):
        make_green()
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={NAME: b"100"}))
    make_green()


@pytest.mark.skipif(NAME == "asyncio", reason="a child process has a new loop")
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_connection_from_before_a_fork_warns(dsn, driver):
    pytest.importorskip(driver)
    script = """
        import importlib, os, sys, warnings
        name, dsn, driver = sys.argv[1:]
        driver = importlib.import_module(driver)
        hub = importlib.import_module(name)
        importlib.import_module(f"psycogreen.{name}").make_psycopg_green()

        def query(connection):
            connection.cursor().execute("SELECT 1")

        def run(connection):
            task = hub.spawn(query, connection)
            task.join() if name == "gevent" else task.wait()

        import psycogreen
        warnings.simplefilter("error", psycogreen.SetupWarning)
        connection = driver.connect(dsn)
        run(connection)
        pid = os.fork()
        if not pid:
            run(driver.connect(dsn))
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                run(connection)
                run(connection)
            print(*[warning.message for warning in given if warning.category.__name__ == "SetupWarning"], flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        run(connection)
        print("parent")
    """
    child, parent = run_script(script, NAME, dsn, driver).splitlines()
    assert child.startswith("a connection that was made before a fork is used in the child process")
    assert child.count("is used in the child process") == 1
    assert parent == "parent"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"connections": "no"}, TypeError, "connections must be True or False, not 'no'"),
        ({"cancel": 1}, TypeError, "cancel must be True or False, not 1"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds or None, not '5'"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds or None, not True"),
        ({"timeout": 0}, ValueError, "timeout must be above 0"),
        ({"timeout": -1}, ValueError, "timeout must be above 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be above 0"),
        ({"patience": 5}, TypeError, "patience"),
    ],
)
def test_wrong_options_raise(options, error, message, make_green):
    with pytest.raises(error, match=message):
        make_green(**options)
    assert psycopg2.extensions.get_wait_callback() is None


def test_options_are_keyword_only(make_green):
    with pytest.raises(TypeError):
        make_green("no")


def test_an_old_psycopg2_raises(make_green, monkeypatch):
    monkeypatch.setattr(psycopg2, "__version__", "2.8.6 (dt dec pq3 ext lo64)")
    with pytest.raises(ImportError, match=r"needs psycopg2 2\.9 or later, and this is 2\.8\.6: pip install --upgrade"):
        make_green()
    monkeypatch.setattr(psycopg2, "__version__", "2.10.1")
    make_green()


def test_a_green_connection_looks_like_one(connect, blocking_dsn_connect):
    with blocking_dsn_connect() as blocking:
        assert repr(blocking).startswith("<connection object at ")
    assert repr(connect()).startswith("<green connection object at ")


def test_our_callback_in_a_partial_makes_green_connections(connect, hub):
    set_wait_callback(functools.partial(functools.partial(hub.wait_callback), timeout=60))
    assert "green" in repr(hub.run(connect))
    assert psycogreen.status().connections


def test_a_loop_that_was_not_built_warns():
    script = """
        import sys, warnings
        sys.modules["psycogreen._waitloop"] = None
        adapter = __import__(f"psycogreen.{sys.argv[1]}", fromlist=["make_psycopg_green"])
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            adapter.make_psycopg_green()
            adapter.make_psycopg_green()
        print(*[warning.message for warning in given])
    """
    said = run_script(script, NAME, PSYCOGREEN_NO_EXTENSIONS="")
    assert said.startswith("psycogreen's pure Python wait loop is in use, which takes more CPU time: the compiled loop")
    assert said.count("not built") == 1
    assert run_script(script, NAME, PSYCOGREEN_NO_EXTENSIONS="1") == ""
