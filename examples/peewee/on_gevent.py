"""peewee on gevent: ``python examples/peewee/on_gevent.py``."""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import make_psycopg_green  # noqa: E402

make_psycopg_green()

import time  # noqa: E402

import app  # noqa: E402
import gevent  # noqa: E402

with app.db:
    app.db.create_tables([app.Counter])
start = time.monotonic()
tasks = [gevent.spawn(app.work, n) for n in range(40)]
print(*[task.get() for task in tasks])
print(f"40 times 0.1 s on 5 connections: {time.monotonic() - start:.2f} s")
