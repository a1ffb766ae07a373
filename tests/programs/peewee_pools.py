"""peewee, with and without a pool, and its server-side cursors."""

import os

from patched import Killed, executing, kill, spawn, until, wait

# isort: split
import peewee
from playhouse.pool import PooledPostgresqlDatabase
from playhouse.postgres_ext import PostgresqlExtDatabase, ServerSide
from psycopg2.extensions import parse_dsn
from support.outcomes import caught

from psycogreen._psycopg2.connection import GreenConnection

parameters = parse_dsn(os.environ["DSN"])
name = parameters.pop("dbname")


def check(db):
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
                ((pid, _),) = db.execute_sql("SELECT pg_backend_pid(), pg_sleep(0.02)")
                pids.add(pid)
                if n % 5 == 0:
                    raise LookupError(n)
            with db.connection_context():
                return Note.select().where(Note.n == n).count()

        outcomes = [wait(g) for g in [spawn(caught, work, n) for n in range(1, 21)]]
        for n, outcome in enumerate(outcomes, 1):
            assert type(outcome) is LookupError if n % 5 == 0 else outcome == 1, outcome
        assert len(pids) <= 5 if isinstance(db, PooledPostgresqlDatabase) else len(pids) == 20, pids

        # A kill in a query: the connection does not return to the pool. peewee rolls back on
        # the closed connection, and the error of that rollback hides the kill.
        def sleeper():
            with db.connection_context(), db.atomic():
                db.execute_sql("SELECT pg_sleep(60) /* kill */")

        task = spawn(caught, sleeper)

        until(lambda: executing("/* kill */") == 1)
        kill(task, Killed())
        error = wait(task)
        assert isinstance(error, peewee.InterfaceError) and isinstance(error.__context__.__context__, Killed)
        until(lambda: executing("/* kill */") == 0)
        with db.connection_context():
            assert Note.select().count() == 16
    finally:
        with db:
            db.drop_tables([Note])


for db in [
    peewee.PostgresqlDatabase(name, **parameters),
    PooledPostgresqlDatabase(name, max_connections=5, timeout=20, stale_timeout=300, **parameters),
]:
    check(db)

# Rows from a server-side cursor.
db = PostgresqlExtDatabase(name, **parameters)


def rows():
    with db.connection_context(), db.atomic():
        query = peewee.Select(columns=[peewee.fn.generate_series(1, 3000).alias("n")])
        numbers = []
        for row in ServerSide(query.bind(db), array_size=500):
            ((cursors,),) = db.execute_sql("SELECT count(*) FROM pg_cursors")
            assert cursors == 1
            numbers.append(row["n"])
        return numbers


assert all(wait(task) == list(range(1, 3001)) for task in [spawn(rows) for _ in range(3)])
