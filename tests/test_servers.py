"""The servers of examples/: each serves concurrently in one worker, and stops and reloads without losing a request."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fix_servers import LOOPS, ROOT, wait_until

pytestmark = pytest.mark.once

AT_ONCE = 8

# The last release that has an eventlet worker.
GUNICORN_25 = ROOT / ".venvs" / "gunicorn-25"

PAGE = re.compile(r"worker,backend\n(\d+),(\d+)\n")


@pytest.fixture(params=LOOPS)
def loop(request):
    """The loop in the server's process."""
    return request.param


def workers(server, loop):
    """Return the ids of the workers that have said that psycopg2 is green there."""
    return re.findall(rf"Worker (\d+): psycopg2 is green \({loop} loop\)", server.log())


def serves_at_once(server, loop):
    """Have many requests sit in PostgreSQL at once, in one worker."""
    server.ask()  # a worker may have to start
    started = time.monotonic()
    pages = server.ask_at_once(AT_ONCE)
    took = time.monotonic() - started
    found = [PAGE.fullmatch(page).groups() for page in pages]
    assert {worker for worker, _ in found} == set(workers(server, loop))
    assert len({backend for _, backend in found}) == AT_ONCE
    assert took < AT_ONCE * 0.3 / 2  # one after another it takes twice that


class TestGunicorn:
    @pytest.fixture(params=["gevent", "eventlet"])
    def gunicorn(self, request, serve, loop, tmp_path):
        if request.param == "eventlet":
            if not GUNICORN_25.exists():
                pytest.skip("no gunicorn with an eventlet worker: make .venvs/gunicorn-25/installed")
        else:
            pytest.importorskip("gunicorn")

        def start(*options):
            environment = {**LOOPS[loop], "XDG_RUNTIME_DIR": str(tmp_path)}  # for gunicorn's control socket
            if request.param == "eventlet":
                environment["PYTHONPATH"] = str(GUNICORN_25)
            command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "--bind", "127.0.0.1:{port}", *options]
            return serve([*command, "app:application"], ROOT / "examples" / f"gunicorn_{request.param}", environment)

        return start

    @pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
    def test_serves_reloads_and_stops(self, gunicorn, loop, options):
        server = gunicorn(*options)
        serves_at_once(server, loop)
        with server.load(AT_ONCE) as load:
            wait_until(lambda: server.at_once() == AT_ONCE)
            server.send_signal(signal.SIGHUP)
            old, new = server.wait_for(lambda: len(found := workers(server, loop)) == 2 and found)
            server.wait_for(lambda: f"Worker exiting (pid: {old})" in server.log())
            wait_until(lambda: server.at_once() == AT_ONCE)
        assert load.failures == []
        served = [PAGE.fullmatch(page)[1] for page in load.pages]
        assert set(served) == {old, new}
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
        """Send tasks 0 to *number* - 1; their order in the queue is not kept."""

        def send(number):
            subprocess.run(
                [sys.executable, "-c", f"import tasks; [tasks.sleep.delay(n) for n in range({number})]"],
                cwd=folder,
                env={**os.environ, **environment},
                check=True,
            )

        return send

    @pytest.fixture
    def work(self, serve, folder, environment, pool):
        """Start a worker."""

        def work(*options):
            command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "tasks", "worker", "-P", pool]
            return serve([*command, "-l", "INFO", *options], folder, environment, ready=" ready.")

        return work

    def test_works_and_stops(self, send, work, pool, loop):
        number = 5 * AT_ONCE
        send(number)
        worker = work("-c", str(AT_ONCE))
        (_,) = workers(worker, loop)
        wait_until(lambda: worker.at_once() == AT_ONCE)
        # What it has begun it ends, what it has only fetched it gives back.
        assert worker.stop() == 0
        first = done(worker)
        assert AT_ONCE <= len(first) < number
        worker = work("-c", str(AT_ONCE))
        worker.wait_for(lambda: len(first) + len(done(worker)) >= number)
        assert worker.stop() == 0
        assert sorted(first + done(worker)) == list(range(number))


def done(worker):
    """Return the numbers of the tasks that the worker has done."""
    return [int(number) for number in re.findall(r"Task tasks\.sleep\S+ succeeded in \S+: (\d+)", worker.log())]
