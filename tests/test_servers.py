"""The servers of examples/ serve concurrently in one worker, and stop and reload without losing a request."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from fix_application_server import LOOPS
from support.processes import ROOT, child_environment
from support.waiting import wait_until

pytestmark = pytest.mark.once

AT_ONCE = 8

# The last release that has an eventlet worker.
GUNICORN_25 = ROOT / ".venvs" / "gunicorn-25"

PAGE = re.compile(r"worker,backend\n(\d+),(\d+)\n")

POOLED = """
import os
from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(0, 20, os.environ["DATABASE_URL"])

def application(environ, start_response):
    conn = pool.getconn()
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT pg_sleep(0.1)")
    finally:
        pool.putconn(conn)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""


@pytest.fixture(params=LOOPS)
def loop(request):
    """The loop in the server's process."""
    if request.param == "cython" and find_spec("psycogreen._waitloop") is None:
        pytest.skip("the compiled loop is not built")
    return request.param


compiled = pytest.mark.parametrize("loop", ["cython"], indirect=True)


def workers(server, loop):
    """Return the ids of the workers that have logged that psycopg2 is green."""
    return re.findall(rf"Worker (\d+): psycopg2 is green \({loop} loop\)", server.log())


def serves_at_once(server, loop):
    """Check that one worker has many requests waiting for PostgreSQL at once."""

    def took():
        started = time.monotonic()
        pages = server.ask_at_once(AT_ONCE)
        took = time.monotonic() - started
        matches = [PAGE.fullmatch(page).groups() for page in pages]
        assert {worker for worker, _ in matches} == set(workers(server, loop))
        assert len({backend for _, backend in matches}) == AT_ONCE
        return took

    # One after the other, the requests would take twice that at every try.
    wait_until(lambda: took() < AT_ONCE * 0.3 / 2)


class TestGunicorn:
    @pytest.fixture(params=["gevent", "eventlet"])
    def gunicorn(self, request, serve, loop, tmp_path):
        if request.param == "eventlet":
            if not GUNICORN_25.exists():
                pytest.skip("no gunicorn with an eventlet worker: make .venvs/gunicorn-25/installed")
        else:
            pytest.importorskip("gunicorn")

        def start(*options, application="app:application"):
            environment = {**LOOPS[loop], "XDG_RUNTIME_DIR": str(tmp_path)}  # for gunicorn's control socket
            if request.param == "eventlet":
                environment["PYTHONPATH"] = str(GUNICORN_25)
            command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", *options]
            return serve([*command, application], ROOT / "examples" / f"gunicorn_{request.param}", environment)

        return start

    @pytest.mark.parametrize(
        ("loop", "options"),
        [("cython", []), ("cython", ["--preload"]), ("python", [])],
        indirect=["loop"],
        ids=["compiled", "compiled-preload", "pure"],
    )
    def test_gunicorn_serves_reloads_and_stops(self, gunicorn, loop, options):
        server = gunicorn(*options)
        serves_at_once(server, loop)
        with server.load(AT_ONCE) as load:
            wait_until(lambda: server.at_once() == AT_ONCE)
            server.send_signal(signal.SIGHUP)
            old, new = server.wait_for(lambda: len(ids := workers(server, loop)) == 2 and ids)
            server.wait_for(lambda: f"Worker exiting (pid: {old})" in server.log())
            wait_until(lambda: server.at_once() == AT_ONCE)
        assert load.failures == []
        served = [PAGE.fullmatch(page)[1] for page in load.pages]
        assert set(served) == {old, new}
        assert server.stop() == 0

    @compiled
    def test_workers_that_end_by_themselves_lose_no_request(self, gunicorn, loop):
        server = gunicorn("--max-requests", str(2 * AT_ONCE))
        with server.load(AT_ONCE) as load:
            server.wait_for(lambda: len(workers(server, loop)) == 2)
        assert load.failures == []
        assert server.stop() == 0

    @compiled
    def test_a_pool_made_before_the_fork_serves(self, gunicorn, tmp_path):
        # The pool connects while it holds its lock.
        (tmp_path / "pooled.py").write_text(POOLED)
        server = gunicorn("--preload", "--pythonpath", str(tmp_path), application="pooled:application")
        assert server.ask_at_once(AT_ONCE) == ["done"] * AT_ONCE
        assert server.stop() == 0

    @compiled
    def test_a_killed_worker_loses_its_own_requests_only(self, gunicorn, loop):
        server = gunicorn()
        with server.load(AT_ONCE) as load:
            wait_until(lambda: server.at_once() == AT_ONCE)
            (killed,) = workers(server, loop)
            os.kill(int(killed), signal.SIGKILL)
            _, new = server.wait_for(lambda: len(ids := workers(server, loop)) == 2 and ids)
            server.wait_for(lambda: any(PAGE.fullmatch(page)[1] == new for page in load.pages))
        # Only requests that the killed worker was serving.
        assert 0 < len(load.failures) <= AT_ONCE
        assert server.stop() == 0


def test_pywsgi_serves_and_stops(serve, loop):
    server = serve([sys.executable, "server.py", "{port}"], ROOT / "examples" / "pywsgi", LOOPS[loop])
    serves_at_once(server, loop)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(server.ask) for _ in range(AT_ONCE)]
        wait_until(lambda: server.at_once() == AT_ONCE)
        assert server.stop() == 0
        for request in asked:
            assert PAGE.fullmatch(request.result())
    with pytest.raises(ConnectionRefusedError):
        server.ask()


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
class TestCelery:
    @pytest.fixture
    def folder(self, pool):
        pytest.importorskip("celery")
        return ROOT / "examples" / f"celery_{pool}"

    @pytest.fixture
    def environment(self, loop, tmp_path):
        return {**LOOPS[loop], "QUEUE": str(tmp_path)}

    @pytest.fixture
    def send(self, folder, environment):
        """Return a function that queues a number of tasks, numbered from 0, and returns their ids."""

        def send(number, seconds):
            script = f"import tasks; print(*[tasks.sleep.delay(n, {seconds}).id for n in range({number})])"
            return script_of(folder, environment, script).split()

        return send

    @pytest.fixture
    def revoke(self, folder, environment):
        """Return a function that makes the worker terminate the tasks with these ids."""

        def revoke(ids):
            script_of(folder, environment, f"import tasks; tasks.app.control.revoke({ids}, terminate=True)")

        return revoke

    @pytest.fixture
    def work(self, serve, folder, environment, pool):
        """Return a function that starts a worker."""

        def work(*options):
            command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "tasks", "worker", "-P", pool]
            return serve([*command, "-l", "INFO", *options], folder, environment, ready=" ready.")

        return work

    @compiled
    def test_celery_works_and_stops(self, send, work, pool, loop):
        number = 3 * AT_ONCE
        send(number, 1)
        worker = work("-c", str(AT_ONCE))
        (_,) = workers(worker, loop)
        wait_until(lambda: worker.at_once() == AT_ONCE)
        # The worker finishes the tasks that it has begun, and gives back those that it has only fetched.
        assert worker.stop() == 0
        first = done(worker)
        assert AT_ONCE <= len(first) < number
        worker = work("-c", str(AT_ONCE))
        worker.wait_for(lambda: len(first) + len(done(worker)) >= number)
        assert worker.stop() == 0
        assert sorted(first + done(worker)) == list(range(number))

    @compiled
    def test_terminated_tasks_end_in_the_server_too(self, send, work, revoke):
        ids = send(AT_ONCE, 60)
        worker = work("-c", str(AT_ONCE))
        wait_until(lambda: worker.at_once() == AT_ONCE)
        revoke(ids)
        wait_until(lambda: worker.sessions() == 0)
        assert worker.stop() == 0
        assert done(worker) == []


def script_of(folder, environment, script):
    """Run *script* in *folder*; return its output."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=child_environment(**environment),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def done(worker):
    """Return the numbers of the tasks that the worker has done."""
    return [int(number) for number in re.findall(r"Task tasks\.sleep\S+ succeeded in \S+: (\d+)", worker.log())]
