"""SQLAlchemy on eventlet: ``python examples/sqlalchemy/on_eventlet.py``."""

import eventlet

eventlet.monkey_patch(psycopg=False)

from psycogreen.eventlet import make_psycopg_green  # noqa: E402

make_psycopg_green()

import time  # noqa: E402

import app  # noqa: E402

app.Base.metadata.create_all(app.engine)
start = time.monotonic()
tasks = [eventlet.spawn(app.work, n) for n in range(40)]
print(*[task.wait() for task in tasks])
print(f"40 times 0.1 s on 5 connections: {time.monotonic() - start:.2f} s")
