"""uWSGI: its green threads with psycogreen.uwsgi, and its gevent loop with psycogreen.gevent.

PSYCOGREEN_TEST_UWSGI is the path of another uWSGI to test, which must be built for
this Python. Up to 2.0.26, uWSGI has threads only with the option enable-threads.
"""

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fix_application_server import LOOPS, Server
from support.processes import ROOT
from support.waiting import PATIENCE, wait_until

import psycogreen.uwsgi
from psycogreen._waiting import POLL_READ, wait_in_thread

pytestmark = pytest.mark.once

UWSGI = Path(os.environ.get("PSYCOGREEN_TEST_UWSGI") or Path(sys.executable).with_name("uwsgi"))

#: The number of green threads in both examples and in the test's application.
AT_ONCE = 20

UGREEN_FITS = sys.version_info < (3, 14)

PAGE = re.compile(r"worker,backend\n(\d+),(\d+)\n")


@pytest.fixture(scope="module")
def command():
    """The beginning of uWSGI's command line, to which tests add options."""
    if not UWSGI.exists():
        pytest.skip("no uWSGI: make .venv/uwsgi-greenlet-installed")
    return [str(UWSGI), "--virtualenv", sys.prefix, "--http-socket", "127.0.0.1:{port}"]


def of_workers(server, loop):
    """Return how many workers have logged that psycopg2 is green."""
    return server.log().count(f"psycopg2 is green ({loop} loop)")


def serves_at_once(server):
    """Check that one process has 20 requests waiting for PostgreSQL at once, 0.3 s each."""
    server.ask()
    started = time.monotonic()
    pages = server.ask_at_once(AT_ONCE)
    took = time.monotonic() - started
    matches = [PAGE.fullmatch(page).groups() for page in pages]
    assert len({worker for worker, _ in matches}) == 1
    assert len({backend for _, backend in matches}) == AT_ONCE
    assert took < 1


def reloads(server, loop, reload):
    """Reload a server under load, and check that no request is lost."""
    before = of_workers(server, loop)
    clients = AT_ONCE - 4
    with server.load(clients) as load:
        wait_until(lambda: server.at_once() == clients)
        reload()
        server.wait_for(lambda: of_workers(server, loop) > before)
        asked = len(load.pages)
        wait_until(lambda: server.at_once() == clients)
        wait_until(lambda: len(load.pages) >= asked + 2 * clients)
    assert load.failures == []
    assert len({PAGE.fullmatch(page)[1] for page in load.pages}) == 2


@pytest.mark.parametrize("loop", LOOPS)
class TestExamples:
    @pytest.fixture
    def start(self, serve, command, loop, tmp_path):
        """Return a function that serves an example, in a copy of its folder that a test may change."""

        def start(name):
            folder = shutil.copytree(ROOT / "examples" / name, tmp_path / name)
            return serve([*command, "uwsgi.ini"], folder, LOOPS[loop], ready="spawned uWSGI worker")

        return start

    def test_the_gevent_example_serves_and_reloads(self, start, loop):
        server = start("uwsgi_gevent")
        serves_at_once(server)
        reloads(server, loop, lambda: server.send_signal(signal.SIGHUP))
        assert server.stop() == 0

    @pytest.mark.skipif(not UGREEN_FITS, reason="psycogreen refuses uGreen on Python 3.14")
    def test_the_ugreen_example_serves_and_reloads(self, start, loop, tmp_path):
        server = start("uwsgi_ugreen")
        serves_at_once(server)
        reloads(server, loop, (tmp_path / "uwsgi_ugreen" / "app.py").touch)
        assert server.stop() == 0


#: The options for green threads. uWSGI has each plugin only if it was built with it.
ENGINES = {"ugreen": ["--ugreen", "--ugreen-stacksize=512"], "greenlet": ["--greenlet"]}


@pytest.fixture(scope="module", params=itertools.product(ENGINES, LOOPS), ids="-".join)
def server(request, command, dsn):
    """A uWSGI that serves uwsgi_app.py."""
    engine, loop = request.param
    if engine == "ugreen" and not UGREEN_FITS:
        pytest.skip("psycogreen refuses uGreen on Python 3.14")
    if f"--{engine} " not in subprocess.run([UWSGI, "--help"], capture_output=True, text=True).stdout:
        pytest.skip(f"uWSGI was built without its plugin {engine}: make .venv/uwsgi-greenlet-installed")
    options = ["--master", "--async=20", "--die-on-term", "--disable-logging", "--module=uwsgi_app"]
    server = Server([*command, *options, *ENGINES[engine]], ROOT / "tests", LOOPS[loop], dsn)
    try:
        server.wait_for(lambda: "spawned uWSGI worker" in server.log())
        assert server.ask("/loop") == loop
        yield server
        assert server.stop() == 0
        assert "died" not in server.log()
    finally:
        server.kill()


class TestGreenThreads:
    """uwsgi_app.py does more than the examples."""

    def test_20_requests_overlap(self, server):
        server.ask_at_once(AT_ONCE, "/sleep")
        started = time.monotonic()
        assert server.ask_at_once(AT_ONCE, "/sleep") == ["slept"] * AT_ONCE
        assert time.monotonic() - started < 1

    @pytest.fixture
    def sharing(self, server):
        """Start a request that waits in a query on a shared connection; yield the future of its page."""
        with ThreadPoolExecutor(1) as pool:
            page = pool.submit(server.ask, "/share")
            server.wait_for(lambda: server.ask("/is_shared") == "True")
            yield page

    def test_5000_requests_succeed(self, server):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pages = Counter(pool.map(server.ask, ["/select"] * 5000))
        assert pages == {"selected": 5000}

    def test_frames_exceptions_and_context_variables_are_each_requests_own(self, server):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pages = Counter(pool.map(server.ask, ["/state"] * 200))
        assert pages == {"kept": 200}

    def test_requests_that_uwsgi_suspends_disturb_no_other(self, server):
        """uWSGI suspends a request while it waits for the rest of the request's body."""
        clients = []
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
            client.sendall(b"POST /body HTTP/1.0\r\nContent-Length: 8\r\n\r\nhalf")
            clients.append(client)
        assert server.ask_at_once(10, "/state") == ["kept"] * 10
        for client in clients:
            client.sendall(b"half")
        for client in clients:
            with client, client.makefile("rb") as answer:
                assert answer.read().endswith(b"\r\n\r\nhalfhalf 1")

    def test_a_large_object_is_written_and_read(self, server):
        assert server.ask("/large_object") == "100000 bytes"

    def test_queries_work_outside_of_requests(self, server):
        assert server.ask("/at_load") == "loaded"
        assert server.ask("/in_thread") == "threaded"

    def test_a_connection_in_use_raises(self, server, sharing):
        refused = (
            "ProgrammingError: commit cannot be used while an asynchronous query is underway:"
            " another greenlet executes a query on this connection"
        )
        assert server.ask("/commit") == refused
        assert server.ask("/on_main_stack") == refused
        busy = "ProgrammingError: execute cannot be used while an asynchronous query is underway"
        assert server.ask("/execute") == busy
        assert not sharing.done()
        assert server.ask("/cancel") == "canceled"
        assert sharing.result().startswith("QueryCanceled: canceling statement due to user request")

    def test_close_by_another_request_ends_the_query(self, server, sharing):
        assert server.ask("/close") == "closed 1"
        assert sharing.result() == "InterfaceError: connection closed by another greenlet"
        wait_until(lambda: server.sessions("SELECT pg_sleep(60)%") == 0)

    def test_an_expired_time_limit_ends_the_query(self, server):
        assert server.ask("/limited") == "TimeoutError: timed out"
        wait_until(lambda: server.sessions("SELECT pg_sleep(60)%") == 0)

    def test_an_expired_connect_timeout_raises(self, server):
        with ThreadPoolExecutor(1) as pool:
            page = pool.submit(server.ask, "/deaf")
            assert server.ask_at_once(5, "/sleep") == ["slept"] * 5
            assert not page.done()
        assert page.result().startswith('OperationalError: connection to server at "localhost"')
        assert page.result().endswith("timeout expired\n")

    def test_requests_leave_nothing_behind(self, server):
        """After expired time limits and lost clients, all descriptors, sessions and cores are free."""
        server.ask_at_once(AT_ONCE, "/sleep")  # each core creates what it keeps
        before = server.ask("/descriptors")
        for _ in range(3):
            server.ask("/limited")
        for _ in range(AT_ONCE):
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
                client.sendall(b"GET /sleep HTTP/1.0\r\n\r\n")
        wait_until(lambda: server.ask("/descriptors") == before)
        assert server.ask_at_once(AT_ONCE, "/sleep") == ["slept"] * AT_ONCE


class TestWithoutThreads:
    """Without native threads, the adapter calls functions directly."""

    @pytest.fixture
    def hub(self):
        hub = psycogreen.uwsgi._Uwsgi()
        hub._threads = False
        return hub

    def test_run_in_thread_calls_directly(self, hub):
        assert hub.run_in_thread(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            hub.run_in_thread(divmod, 1, 0)

    def test_start_thread_gives_up_without_an_answer(self, hub):
        """A cancel request waits for its answer in this way."""
        ready, end = os.pipe()
        started = time.monotonic()
        hub.start_thread(wait_in_thread, hub, ready, POLL_READ, 10)
        assert 1 <= time.monotonic() - started < 5
        os.close(ready)
        os.close(end)


class TestRefusal:
    @pytest.fixture
    def refusal(self, monkeypatch):
        """Return the message of the error that make_psycopg_green() raises in a uWSGI with *options*."""

        def refusal(cores=20, compiled=True, **options):
            options = {name.replace("_", "-"): value for name, value in options.items()}
            fake = SimpleNamespace(opt=options, cores=cores)
            monkeypatch.setattr(psycogreen.uwsgi, "uwsgi", fake)
            if not compiled:
                monkeypatch.setattr(psycogreen.uwsgi, "_ugreen", None)
            with pytest.raises(RuntimeError) as caught:
                psycogreen.uwsgi.make_psycopg_green()
            return str(caught.value)

        return refusal

    def test_outside_of_uwsgi_raises(self):
        with pytest.raises(ImportError, match="works only inside uWSGI"):
            psycogreen.uwsgi.make_psycopg_green()

    def test_uwsgis_gevent_loop_raises(self, refusal):
        assert "use psycogreen.gevent.make_psycopg_green()" in refusal(gevent=b"20")

    def test_uwsgi_without_green_threads_raises(self, refusal):
        assert "set async = 20, ugreen = true, ugreen-stacksize = 512" in refusal()

    def test_uwsgi_without_async_mode_raises(self, refusal):
        assert "set async = 20" in refusal(cores=1, ugreen=True, ugreen_stacksize=b"512")

    @pytest.mark.parametrize("options", [{}, {"ugreen_stacksize": b"64"}])
    def test_a_small_stack_raises(self, refusal, options):
        message = refusal(ugreen=True, **options)
        assert "have 256 kB" in message
        assert "set ugreen-stacksize = 512" in message

    def test_a_missing_compiled_module_raises(self, refusal):
        message = refusal(compiled=False, ugreen=True, ugreen_stacksize=b"512")
        assert "install psycogreen where there is a C compiler" in message

    def test_ugreen_on_a_new_python_raises(self, refusal, monkeypatch):
        monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
        assert refusal(ugreen=True, ugreen_stacksize=b"512").startswith("uGreen can't run CPython 3.14 and later")

    def test_an_unknown_python_plugin_raises(self, refusal, monkeypatch):
        """This process has no Python plugin of uWSGI's."""
        monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
        if psycogreen.uwsgi._ugreen is None:
            pytest.skip("psycogreen's compiled modules are not built")
        message = refusal(ugreen=True, ugreen_stacksize=b"512")
        assert message.startswith("psycogreen does not know this uWSGI's Python plugin")
