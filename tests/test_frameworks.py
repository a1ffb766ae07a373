"""Frameworks and pools on green connections, and the examples of them.

Their connections under kills and closes: test_connection_django.py and
test_connection_sqlalchemy.py. Their own test suites: framework_suites.py.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.heavy
def test_django_orm(run_with: Callable[..., str]) -> None:
    run_with(
        "django",
        """
        from django.db import models
        from django.db.models import F, Sum

        class Account(models.Model):
            name = models.TextField()
            balance = models.IntegerField()
            class Meta:
                app_label = "bank"
                db_table = f"bank_account_{os.getpid()}"

        with connection.schema_editor() as editor:
            editor.create_model(Account)
        try:
            Account.objects.bulk_create(Account(name=f"account {n}", balance=100) for n in range(2000))
            first, second = Account.objects.order_by("id")[:2]
            committed = []

            def transfer(n):
                # All want the same two rows: they wait for each other in the server.
                try:
                    with transaction.atomic():
                        ids = [first.id, second.id]
                        rows = list(Account.objects.select_for_update().filter(id__in=ids).order_by("id"))
                        assert len(rows) == 2
                        Account.objects.filter(id=first.id).update(balance=F("balance") - n)
                        transaction.on_commit(lambda: committed.append(n))
                        try:
                            with transaction.atomic():  # a savepoint
                                Account.objects.filter(id=second.id).update(balance=F("balance") + 1000)
                                Account.objects.create(id=first.id, name="twice", balance=0)
                        except django.db.IntegrityError:
                            pass
                        Account.objects.filter(id=second.id).update(balance=F("balance") + n)
                        if n % 5 == 0:
                            raise LookupError(n)
                finally:
                    connection.close()

            outcomes = [wait(g) for g in [spawn(caught, transfer, n) for n in range(20)]]
            failed = [n for n, outcome in enumerate(outcomes) if outcome is not None]
            assert failed == [0, 5, 10, 15] and all(type(outcomes[n]) is LookupError for n in failed), outcomes
            assert sorted(committed) == sorted(set(range(20)) - set(failed))
            first.refresh_from_db(), second.refresh_from_db()
            assert (first.balance, second.balance) == (100 - sum(committed), 100 + sum(committed))
            assert Account.objects.aggregate(Sum("balance"))["balance__sum"] == 200_000

            def stream(chunk_size, in_transaction):
                # A server-side cursor: WITH HOLD outside of a transaction.
                def names():
                    for row in Account.objects.order_by("id").iterator(chunk_size=chunk_size):
                        if row.id == first.id:
                            with connection.cursor() as cursor:
                                cursor.execute("SELECT is_holdable FROM pg_cursors WHERE name LIKE '_django%%'")
                                assert cursor.fetchall() == [(not in_transaction,)]
                        yield row.name
                try:
                    if in_transaction:
                        with transaction.atomic():
                            return list(names())
                    return list(names())
                finally:
                    connection.close()

            expected = [f"account {n}" for n in range(2000)]
            tasks = [spawn(stream, size, size % 2 == 0) for size in (100, 101, 500, 501, 2000)]
            assert all(wait(task) == expected for task in tasks)

            # An iterator that was begun in one greenlet goes on in another.
            rows = Account.objects.order_by("id").iterator(chunk_size=100)
            names = [next(rows).name]
            names += wait(spawn(lambda: [row.name for row in rows]))
            assert names == expected

            # What belongs to a greenlet belongs to no other.
            foreign = []
            def owner():
                foreign.append(django.db.connections["default"])
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    return cursor.fetchone()[0]
            pid = wait(spawn(owner))
            error = caught(foreign[0].cursor)
            assert isinstance(error, django.db.utils.DatabaseError) and "same thread" in str(error), error
            # With CONN_MAX_AGE the greenlet that ends leaves its connection open, to the collector.
            del error
            foreign.clear()
            import gc
            def ended():
                gc.collect()
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
                    return cursor.fetchone()[0] == 0
            until(ended)
        finally:
            with connection.schema_editor() as editor:
                editor.delete_model(Account)
        """,
    )


@pytest.mark.heavy
def test_sqlalchemy_orm_and_pools(run_with: Callable[..., str]) -> None:
    run_with(
        "sqlalchemy",
        """
        from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, func, pool, select
        from sqlalchemy.orm import Session, declarative_base, relationship, scoped_session, sessionmaker

        Base = declarative_base(metadata=MetaData(schema=f"orm_{os.getpid()}"))

        class Parent(Base):
            __tablename__ = "parent"
            id = Column(Integer, primary_key=True)
            name = Column(String, unique=True)
            children = relationship("Child", lazy="select", order_by="Child.id")

        class Child(Base):
            __tablename__ = "child"
            id = Column(Integer, primary_key=True)
            parent_id = Column(ForeignKey(Parent.id))
            n = Column(Integer)

        with monitor.connect() as conn:
            conn.execute(sqlalchemy.schema.CreateSchema(Base.metadata.schema))
        try:
            Base.metadata.create_all(engine)

            def family(n):
                with Session(engine) as session, session.begin():
                    parent = Parent(name=f"parent {n}", children=[Child(n=k) for k in range(n)])
                    session.add(parent)
                    session.flush()
                    try:
                        with session.begin_nested():
                            session.add(Parent(name=parent.name))
                    except exc.IntegrityError:
                        pass
                    session.add(Child(n=n, parent_id=parent.id))
                with Session(engine) as session:
                    parent = session.scalars(select(Parent).where(Parent.name == f"parent {n}")).one()
                    return [child.n for child in parent.children]

            tasks = [spawn(family, n) for n in range(20)]
            for n, task in enumerate(tasks):
                assert wait(task) == list(range(n + 1))

            # One session for each greenlet.
            local = scoped_session(sessionmaker(engine))
            def mine():
                session = local()
                session.scalar(select(func.pg_sleep(0.01)))
                assert local() is session
                local.remove()
                return id(session), session
            assert len({wait(task) for task in [spawn(mine) for _ in range(10)]}) == 10

            # All want the same row.
            def count(n):
                with Session(engine) as session, session.begin():
                    child = session.scalars(select(Child).order_by(Child.id).limit(1).with_for_update()).one()
                    child.n += 1
            for task in [spawn(count, n) for n in range(20)]:
                wait(task)
            with Session(engine) as session:
                assert session.scalar(select(Child.n).order_by(Child.id).limit(1)) == 20

            # Many rows there, in pages, with what the server made of them, and back bit by bit.
            with Session(engine) as session, session.begin():
                session.add_all(Child(n=n) for n in range(3000))
                session.flush()
                rows = session.scalars(select(Child).execution_options(yield_per=100))
                assert sum(1 for _ in rows) == 3000 + 20 + sum(range(20))

            # Two phases.
            with Session(engine, twophase=True) as session:
                session.add(Parent(name="two phases"))
                error = caught(session.commit)
                # As a server answers that was not told to allow them.
                assert error is None or "prepared transactions are disabled" in str(error), error

            # An exhausted pool keeps its own time, and nobody else from running.
            small = create_engine("postgresql+psycopg2://", creator=connect, pool_size=1, max_overflow=0,
                                  pool_timeout=0.2)
            with small.connect() as conn:
                task = spawn(caught, small.connect)
                assert conn.scalar(select(func.length(func.cast(func.pg_sleep(0.3), String)))) == 0
                assert isinstance(wait(task), exc.TimeoutError)

            # Two greenlets are the first ones to use an engine, and the dialect asks for the server's version.
            for kind in pool.NullPool, pool.SingletonThreadPool, pool.QueuePool:
                fresh = create_engine("postgresql+psycopg2://", creator=connect, poolclass=kind)
                def once():
                    with fresh.connect() as conn:
                        return conn.scalar(text("SELECT pg_backend_pid() + 0 * length(pg_sleep(0.05)::text)"))
                assert len({wait(task) for task in [spawn(once) for _ in range(3)]}) == 3
                fresh.dispose()
        finally:
            with monitor.connect() as conn:
                conn.execute(sqlalchemy.schema.DropSchema(Base.metadata.schema, cascade=True))
        """,
    )


@pytest.mark.heavy
def test_peewee(run_with: Callable[..., str]) -> None:
    run_with(
        "peewee",
        """
        for db in [
            peewee.PostgresqlDatabase(name, **parameters),
            PooledPostgresqlDatabase(name, max_connections=5, timeout=20, stale_timeout=300, **parameters),
        ]:
            class Note(peewee.Model):
                n = peewee.IntegerField(primary_key=True)
                class Meta:
                    database = db
                    table_name = f"peewee_note_{os.getpid()}"

            with db:
                db.create_tables([Note])
                assert isinstance(db.connection(), GreenConnection)
            try:
                pids = set()
                def work(n):
                    with db.connection_context(), db.atomic():
                        Note.insert(n=n).execute()
                        try:
                            with db.atomic():  # a savepoint
                                Note.insert(n=-n).execute()
                                Note.insert(n=n).execute()
                        except peewee.IntegrityError:
                            pass
                        (pid, _), = db.execute_sql("SELECT pg_backend_pid(), pg_sleep(0.02)")
                        pids.add(pid)
                        if n % 5 == 0:
                            raise LookupError(n)
                    with db.connection_context():
                        return Note.select().where(Note.n == n).count()

                outcomes = [wait(g) for g in [spawn(caught, work, n) for n in range(1, 21)]]
                for n, outcome in enumerate(outcomes, 1):
                    assert type(outcome) is LookupError if n % 5 == 0 else outcome == 1, outcome
                assert len(pids) <= 5 if isinstance(db, PooledPostgresqlDatabase) else len(pids) == 20, pids

                # A kill in a query: the pool does not get that connection back. peewee rolls back on
                # the closed connection, and what that raises hides the kill.
                def sleeper():
                    with db.connection_context(), db.atomic():
                        db.execute_sql("SELECT pg_sleep(60) /* kill */")
                task = spawn(caught, sleeper)
                def active():
                    with db.connection_context():
                        (n,), = db.execute_sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                                               " AND query LIKE '%%/* kill */' AND pid <> pg_backend_pid()")
                        return n
                until(lambda: active() == 1)
                kill(task, Killed())
                error = wait(task)
                assert isinstance(error, peewee.InterfaceError) and isinstance(error.__context__.__context__, Killed)
                until(lambda: active() == 0)
                with db.connection_context():
                    assert Note.select().count() == 16
            finally:
                with db:
                    db.drop_tables([Note])

        # Rows from a server-side cursor.
        db = PostgresqlExtDatabase(name, **parameters)
        def rows():
            with db.connection_context(), db.atomic():
                query = peewee.Select(columns=[peewee.fn.generate_series(1, 3000).alias("n")])
                found = []
                for row in ServerSide(query.bind(db), array_size=500):
                    (cursors,), = db.execute_sql("SELECT count(*) FROM pg_cursors")
                    assert cursors == 1
                    found.append(row["n"])
                return found
        assert all(wait(task) == list(range(1, 3001)) for task in [spawn(rows) for _ in range(3)])
        """,
    )


@pytest.mark.heavy
def test_psycopg2_pools(run_with: Callable[..., str]) -> None:
    run_with(
        "psycopg2",
        """
        from psycopg2.extensions import TRANSACTION_STATUS_IDLE

        def sleep_in(conn, seconds=0.02):
            with conn.cursor() as cur:
                cur.execute("SELECT pg_backend_pid(), pg_sleep(%s)", (seconds,))
                return cur.fetchone()[0]

        for kind in pool.SimpleConnectionPool, pool.ThreadedConnectionPool:
            # As blocking: no more than the pool may hold, and an error at once.
            some = kind(2, 4, "{dsn}")
            taken = [some.getconn() for _ in range(4)]
            assert isinstance(caught(some.getconn), pool.PoolError)
            assert len({wait(task) for task in [spawn(sleep_in, conn) for conn in taken]}) == 4
            # Given back by another greenlet, in a transaction: it is rolled back.
            for conn in taken[:2]:
                wait(spawn(some.putconn, conn))
                assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE and not conn.closed
            for conn in taken[2:]:
                some.putconn(conn)
                assert conn.closed
            # By key, whoever asks.
            conn = some.getconn("key")
            assert wait(spawn(some.getconn, "key")) is conn
            some.putconn(conn, "key")

            # Back while another greenlet is in a query on it: the rollback is refused, and it stays taken.
            conn = some.getconn()
            task = spawn(caught, sleep_in, conn, 0.2)
            until(lambda: conn.info.transaction_status == 1)
            assert isinstance(caught(some.putconn, conn), psycopg2.ProgrammingError)
            assert wait(task) == conn.info.backend_pid
            some.putconn(conn)

            # Killed in a query: the pool throws it away.
            conn = some.getconn()
            def lent():
                try:
                    sleep_in(conn, 60)
                finally:
                    some.putconn(conn)
            task = spawn(caught, lent)
            until(lambda: conn.info.transaction_status == 1)
            kill(task, Killed())
            assert isinstance(wait(task), Killed)
            assert conn.closed and some.getconn() is not conn

            # So does putconn(close=True), and the query ends, as with closeall().
            conn = some.getconn()
            task = spawn(caught, sleep_in, conn, 60)
            until(lambda: conn.info.transaction_status == 1)
            some.putconn(conn, close=True)
            assert isinstance(wait(task), psycopg2.InterfaceError)
            conn = some.getconn()
            task = spawn(caught, sleep_in, conn, 60)
            until(lambda: conn.info.transaction_status == 1)
            some.closeall()
            assert isinstance(wait(task), psycopg2.InterfaceError)
            assert isinstance(caught(some.putconn, conn), pool.PoolError)

        # Many greenlets ask at once, while the pool connects.
        some = pool.ThreadedConnectionPool(0, 5, "{dsn}")
        asked = [wait(task) for task in [spawn(caught, some.getconn) for _ in range(20)]]
        conns = [conn for conn in asked if not isinstance(conn, pool.PoolError)]
        assert len({wait(task) for task in [spawn(sleep_in, conn) for conn in conns]}) == 5
        for conn in conns:
            some.putconn(conn)
        some.closeall()
        """,
    )


@pytest.fixture
def libpq_variables(dsn: str) -> Iterator[dict[str, str]]:
    """The environment that names the server; the tables of the examples are dropped afterwards."""
    import psycopg2
    from psycopg2.extensions import parse_dsn

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    yield {names[key]: value for key, value in parse_dsn(dsn).items() if key in names}
    conn = psycopg2.connect(dsn)
    conn.autocommit = True
    cur = conn.cursor()
    cur.execute("SELECT relname FROM pg_class WHERE relname LIKE 'example\\_%' AND relkind = 'r'")
    for (table,) in cur.fetchall():
        cur.execute(f"DROP TABLE {table} CASCADE")
    conn.close()


def example(stack: str, hub: str, variables: dict[str, str]) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", EXAMPLES / stack / f"on_{hub}.py"],
        env={**os.environ, "PYTHONPATH": path, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.once
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize(
    "stack, results",
    [
        ("sqlalchemy", [6 * n for n in range(40)]),
        ("peewee", [1] * 40),
        ("psycopg2_pool", [2 * n for n in range(40)]),
    ],
)
def test_example(stack: str, results: list[int], hub: str, libpq_variables: dict[str, str]) -> None:
    pytest.importorskip(stack.partition("_")[0])
    with example(stack, hub, libpq_variables) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    numbers, told = out.splitlines()
    assert numbers == " ".join(map(str, results))
    seconds = float(told.removeprefix("40 times 0.1 s on 5 connections: ").removesuffix(" s"))
    # One after the other: 4 seconds. Never more than five at a time: 0.8.
    assert 0.8 <= seconds < 2.5


@contextmanager
def served(stack: str, hub: str, variables: dict[str, str]) -> Iterator[str]:
    """Run the server of an example; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with example(stack, hub, {**variables, "PORT": str(port)}) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def get(url: str) -> str:
    with urlopen(url, timeout=30) as response:
        return response.read().decode()


@pytest.mark.once
@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
def test_django_example(hub: str, libpq_variables: dict[str, str]) -> None:
    pytest.importorskip("django")
    with served("django", hub, libpq_variables) as url, ThreadPoolExecutor(20) as browsers:
        started = time.monotonic()
        answers = list(browsers.map(get, [f"{url}/visit/somebody"] * 20))
        took = time.monotonic() - started
        assert len(answers) == 20 and '{"visits": 20}' in answers
        assert 0.3 <= took < 3  # 6 seconds one after the other
        assert get(f"{url}/visits").splitlines() == ["somebody"] * 20


@pytest.mark.once
def test_django_db_geventpool_example(libpq_variables: dict[str, str]) -> None:
    pytest.importorskip("django_db_geventpool")
    with served("django_db_geventpool", "gevent", libpq_variables) as url, ThreadPoolExecutor(20) as browsers:
        # At the first rush the pool opens more than it may: it looks at their number before connecting.
        list(browsers.map(get, [f"{url}/backend"] * 20))
        started = time.monotonic()
        answers = list(browsers.map(get, [f"{url}/backend"] * 20))
        took = time.monotonic() - started
        assert len(set(answers)) == 5
        assert 0.4 <= took < 1.5  # 2 seconds one after the other
