"""A WSGI application for uGreen, with a page for each test of test_uwsgi.py."""

import contextvars
import functools
import os
import sys
import threading
import time

import psycopg2
import uwsgi
from psycopg2 import extensions
from support import network

import psycogreen
from psycogreen.uwsgi import make_psycopg_green, uwsgi_wait_callback

make_psycopg_green()

DSN = os.environ["DATABASE_URL"]

# While uWSGI loads the application there are no green threads: the query blocks.
with psycopg2.connect(DSN) as at_load, at_load.cursor() as cur:
    cur.execute("SELECT 'loaded'")
    (loaded,) = cur.fetchone()
at_load.close()

request = contextvars.ContextVar("request", default="none")
idle = []  # connections
shared = None  # a connection that one request leaves to the others
outcomes = []  # results of handle(), which runs on the main stack


def pause():
    """Let other requests run, through uWSGI's own functions."""
    ready, end = os.pipe()
    os.close(end)
    uwsgi.wait_fd_read(ready)
    uwsgi.suspend()
    os.close(ready)


def query(sql, *args):
    conn = psycopg2.connect(DSN)
    conn.autocommit = True
    try:
        with conn.cursor() as cur:
            cur.execute(sql, args)
            return cur.fetchone()[0]
    finally:
        conn.close()


def select():
    """Run a short query on a connection that is kept."""
    conn = idle.pop() if idle else psycopg2.connect(DSN)
    conn.autocommit = True
    with conn.cursor() as cur:
        cur.execute("SELECT 'selected'")
        (page,) = cur.fetchone()
    idle.append(conn)
    return page


def sleep():
    return query("SELECT pg_sleep(0.3)::text || 'slept'")


def state():
    """Use the state that CPython keeps for each thread and psycogreen must keep for each request."""
    me = object()

    def deep(n, x):
        a = b = c = x
        if n:
            assert deep(n - 1, x) is x
        else:
            pause()
        assert a is b is c is x
        return x

    def numbers(conn):
        with conn.cursor() as cur:
            for n in range(3):
                cur.execute("SELECT %s, pg_sleep(random() / 100)", (n,))
                deep(int(time.monotonic() * 1e6) % 300, me)
                yield cur.fetchone()[0]

    assert request.get() == "none"
    request.set(me)
    conn = psycopg2.connect(DSN)
    try:
        raise KeyError(me)
    except KeyError as exc:
        for three in zip(numbers(conn), numbers(conn), strict=True):
            assert len(set(three)) == 1
            assert sys.exc_info()[1] is exc
            assert request.get() is me
            deep(int(time.monotonic() * 1e6) % 300, me)
    assert sys.exc_info() == (None, None, None)
    conn.close()
    return "kept"


def body():
    """Read the request's body, for which uWSGI itself suspends the request."""
    read = current["wsgi.input"].read()
    return f"{read.decode()} {query('SELECT 1')}"


def share():
    """Wait in a query on the shared connection."""
    global shared
    shared = psycopg2.connect(DSN)
    with shared.cursor() as cur:
        cur.execute("SELECT pg_sleep(60)")


def execute():
    with shared.cursor() as cur:
        cur.execute("SELECT 1")
    return "executed"


def commit():
    shared.commit()
    return "committed"


def close():
    shared.close()
    return f"closed {shared.closed}"


def cancel():
    shared.cancel()
    return "canceled"


def on_main_stack():
    """Return the outcome of a commit in a signal handler of uWSGI's, while a request is in a query."""
    outcomes.clear()
    uwsgi.signal(17)
    while not outcomes:
        pause()
    return outcomes[0]


def handle(signum):
    try:
        shared.commit()
        outcomes.append("committed")
    except psycopg2.Error as exc:
        outcomes.append(f"{type(exc).__name__}: {exc}")


uwsgi.register_signal(17, "worker", handle)


def in_thread():
    """Run a query in a native thread, which blocks only itself."""
    pages = []
    thread = threading.Thread(target=lambda: pages.append(query("SELECT 'threaded'")))
    thread.start()
    while thread.is_alive():
        pause()
    return pages[0]


def limited():
    """Run a query with a time limit; the other requests' wait callback has none."""
    conn = psycopg2.connect(DSN)
    extensions.set_wait_callback(functools.partial(uwsgi_wait_callback, timeout=0.2))
    started = time.monotonic()
    try:
        with conn.cursor() as cur:
            cur.execute("SELECT pg_sleep(60)")
    finally:
        extensions.set_wait_callback(uwsgi_wait_callback)
        took = time.monotonic() - started
        assert 0.2 <= took < 2, took
        assert conn.closed


def deaf():
    """Connect to a server that never answers."""
    with network.deaf() as port:
        psycopg2.connect(host="localhost", port=port, dbname="x", connect_timeout=2)


def large_object():
    conn = psycopg2.connect(DSN)
    large = conn.lobject(mode="wb")
    large.write(b"x" * 100_000)
    large.seek(0)
    page = f"{len(large.read())} bytes"
    large.unlink()
    conn.close()
    return page


def at_load():
    return loaded


def loop():
    return psycogreen.implementation


def is_shared():
    """Tell whether a request waits in a query on the shared connection."""
    return str(shared is not None and shared.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE)


def descriptors():
    return str(len(os.listdir("/proc/self/fd")))


# The environment of the request that runs. A page must read it before its first wait.
current = {}

PAGES = {f"/{page.__name__}": page for page in list(globals().values()) if callable(page) and hasattr(page, "__code__")}


def application(environ, start_response):
    global current
    current = environ
    try:
        page = PAGES[environ["PATH_INFO"]]()
    except Exception as exc:
        page = f"{type(exc).__name__}: {exc}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [page.encode()]
