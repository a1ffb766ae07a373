"""``psycogreen.status()`` and ``python -m psycogreen``: is psycopg2 green, and if not, why not."""

import json
import shutil
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from hubs import NAME
from psycopg2.extensions import set_wait_callback
from support.processes import child_environment, run_script

import psycogreen

# With this, no wait callback gets registered: queries stop the hub.
STANDS_STILL = "import psycopg2.extensions as e; e.set_wait_callback = lambda callback: None"
# Python code that hides psycopg 3.
HIDE = "import sys; sys.modules['psycopg'] = None; "


def diagnose(*arguments, **variables):
    """Run ``python -m psycogreen``; return its exit status and what it printed."""
    command = [sys.executable, "-m", "psycogreen", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=child_environment(**variables), cwd="/"
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def stand_in(directory, name, text):
    """Write a module that Python imports in place of *name*; return the environment variables for that."""
    (directory / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(directory)}


def test_status_describes_a_green_process(connect, hub):
    before = psycogreen.status().green_connections
    connection = connect()
    status = hub.run(psycogreen.status)
    assert (status.implementation, status.poller) == (psycogreen.implementation, psycogreen.poller)
    assert (status.why_pure is None) == (status.implementation == "cython")
    assert status.callback == f"psycogreen.{NAME}.{NAME}_wait_callback"
    assert status.adapter == NAME
    assert status.connections
    assert NAME in status.hubs
    assert status.green_connections == before + 1
    assert status.monkey_patched == {}
    connection.close()
    assert psycogreen.status().green_connections == before


def test_status_counts_connections_that_are_not_green(connect, blocking_dsn_connect):
    before = psycogreen.status().other_connections
    with blocking_dsn_connect():
        pass
    assert psycogreen.status().other_connections == before
    with blocking_dsn_connect() as connection:
        assert not connection.closed
        # Without the callback, new connections would not be green either.
        assert not psycogreen.status().connections
        assert psycogreen.status().other_connections == before + 1


def test_status_says_that_psycopg2_blocks():
    status = psycogreen.status()
    assert status.callback is status.adapter is None
    assert not status.connections
    assert "no wait callback is registered" in status.problems[0]


def test_status_names_another_librarys_callback(green):
    def theirs(connection):
        raise AssertionError

    set_wait_callback(theirs)
    status = psycogreen.status()
    assert status.callback == f"{__name__}.{theirs.__qualname__}"
    assert status.adapter is None
    assert f"{status.callback} is registered with psycopg2 in place of psycogreen's" in status.problems[0]


def test_status_names_another_library_that_runs(dsn):
    script = """
        import importlib, sys
        import psycogreen
        other, running = sys.argv[1:]
        importlib.import_module(f"psycogreen.{other}").make_psycopg_green()
        if running == "gevent":
            import gevent
            gevent.sleep(0)
        else:
            import eventlet
            eventlet.sleep(0)
        print(psycogreen.status().problems[0])
    """
    running = "gevent" if NAME == "eventlet" else "eventlet"
    assert run_script(script, NAME, running).endswith(f"Call psycogreen.{running}.make_psycopg_green()")


@pytest.mark.skipif(NAME == "asyncio", reason="asyncio patches nothing")
def test_status_names_patched_modules():
    patch = {"gevent": "gevent.monkey; gevent.monkey.patch_all()", "eventlet": "eventlet; eventlet.monkey_patch()"}
    status = run_script(f"import {patch[NAME]}; import psycogreen; print(psycogreen.status().monkey_patched)")
    assert f"'{NAME}': (" in status
    assert "'socket'" in status
    assert "psycopg" not in status


def test_status_works_without_psycopg2():
    assert run_script("import psycogreen, sys; print(psycogreen.status().problems, 'psycopg2' in sys.modules)") == (
        "() False"
    )


@pytest.mark.once
def test_the_report_lists_installed_versions(dsn):
    status, text = diagnose("--json", PGSERVICEFILE="/dev/null", **environment_of(dsn))
    report = json.loads(text)
    assert status == 0
    assert report["problems"] == []
    assert report["psycogreen"] == psycogreen.__version__
    assert (report["loop"], report["poller"]) == (psycogreen.implementation, psycogreen.poller)
    assert psycopg2.__version__.startswith(report["psycopg2"])
    with closing(psycopg2.connect(dsn)) as connection:
        assert report["postgresql"] == connection.get_parameter_status("server_version")
    assert {"queries", "COPY"} <= set(report["green"])


def environment_of(dsn):
    """Return libpq's environment variables for *dsn*."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    return {names[name]: value for name, value in psycopg2.extensions.parse_dsn(dsn).items()}


@pytest.mark.once
def test_the_report_is_printed_as_text(tmp_path):
    status, text = diagnose(PGHOST=str(tmp_path))
    assert status == 0
    assert f"\npsycopg2    {psycopg2.__version__.split()[0]}\n" in text
    assert "No such file or directory" in text  # that no server runs is not a problem of the set-up


@pytest.mark.once
@pytest.mark.parametrize(
    ("module", "text", "problem"),
    [
        (
            "psycopg2",
            HIDE + "raise ModuleNotFoundError(name='psycopg2')",
            "psycopg2 is not installed. Install psycopg2",
        ),
        ("psycopg2", "raise ImportError('libpq.so.5')", "psycopg2 can't be imported: libpq.so.5. Install psycopg2"),
    ],
)
def test_the_report_says_what_to_do(module, text, problem, tmp_path):
    status, printed = diagnose(**stand_in(tmp_path, module, text))
    assert status == 1
    assert f"PROBLEM     {problem}" in printed


@pytest.mark.once
def test_the_report_and_status_are_content_with_psycopg_3_alone(dsn, tmp_path):
    without_psycopg2 = stand_in(tmp_path, "psycopg2", "raise ModuleNotFoundError(name='psycopg2')")
    status, text = diagnose(PGSERVICEFILE="/dev/null", **environment_of(dsn), **without_psycopg2)
    assert status == 0
    assert "psycopg2    not installed" in text
    assert "green       queries, connecting, COPY, cancel" in text
    script = """
        import psycopg, psycogreen
        from psycogreen.gevent import make_psycopg_green
        print(psycogreen.status().psycopg3, *psycogreen.status().problems)
        make_psycopg_green(drivers=["psycopg"])
        print(psycogreen.status().psycopg3, *psycogreen.status().problems)
    """
    before, after = run_script(script).splitlines()
    assert before.startswith("False psycopg 3 is not green. Call make_psycopg_green()")
    assert after == "True"


@pytest.mark.once
def test_the_report_says_why_the_loop_is_the_pure_one(tmp_path):
    assert "pure Python: PSYCOGREEN_NO_EXTENSIONS is set" in diagnose(PSYCOGREEN_NO_EXTENSIONS="1")[1]
    absent = "import sys; sys.modules['psycogreen._waitloop'] = None"
    status, text = diagnose(**stand_in(tmp_path, "sitecustomize", absent))
    assert "pure Python: the compiled loop was not built" in text
    assert status == 0


@pytest.mark.once
def test_the_report_shows_why_the_compiled_loop_does_not_load(tmp_path):
    package = tmp_path / "psycogreen"
    shutil.copytree(Path(psycogreen.__file__).parent, package)
    (package / f"_waitloop{sysconfig.get_config_var('EXT_SUFFIX')}").write_text("no library")
    status, text = diagnose(PYTHONPATH=str(tmp_path))
    assert "pure Python: the compiled loop can't be imported: " in text
    assert "PROBLEM     the compiled loop can't be imported: " in text
    assert "_waitloop" in text
    assert status == 1


@pytest.mark.once
def test_check_reports_that_every_hub_keeps_running(dsn):
    status, text = diagnose("check", dsn)
    assert status == 0
    assert [line.split(":")[0].split(maxsplit=2) for line in text.splitlines()] == [
        [hub, driver, "the hub kept running"]
        for hub in ("gevent", "eventlet", "asyncio")
        for driver in ("psycopg2", "psycopg")
    ]


@pytest.mark.once
def test_check_reports_a_hub_that_stands_still(dsn, tmp_path):
    status, text = diagnose("check", dsn, "--json", **stand_in(tmp_path, "sitecustomize", HIDE + STANDS_STILL))
    assert status == 1
    for outcome in json.loads(text):
        assert not outcome["green"]
        assert outcome["longest_pause"] > 0.4
        assert outcome["seconds"] > 2.4


@pytest.mark.once
def test_check_says_why_it_can_not_connect(tmp_path):
    status, text = diagnose("check", f"host={tmp_path} password=secret")
    assert status == 1
    assert "gevent      psycopg2    failed: OperationalError: connection to server on socket" in text
    assert "gevent      psycopg     failed: OperationalError: " in text
    assert "secret" not in text
