"""peewee and its pool, without code for greenlets.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server.
"""

import os

from peewee import IntegerField, Model, TextField
from playhouse.pool import PooledPostgresqlDatabase

db = PooledPostgresqlDatabase(
    os.environ.get("PGDATABASE", "postgres"),
    max_connections=5,
    # Seconds that a greenlet waits while all connections are in use. By default
    # peewee raises MaxConnectionsExceeded at once.
    timeout=30,
    # By default a query connects by itself, and the connection never returns to the pool.
    autoconnect=False,
)


class Counter(Model):
    name = TextField(primary_key=True)
    value = IntegerField(default=0)

    class Meta:
        database = db
        table_name = "example_counter"


def work(n: int) -> int:
    """Add one to the counter; return its new value."""
    # Each greenlet has a connection of its own, and gives it back at the end of the block.
    with db.connection_context(), db.atomic():
        query = Counter.insert(name=f"counter {n}", value=1)
        query = query.on_conflict(conflict_target=[Counter.name], update={Counter.value: Counter.value + 1}).returning(
            Counter.value
        )
        (row,) = query.execute()
        db.execute_sql("SELECT pg_sleep(0.1)")
        return row.value
