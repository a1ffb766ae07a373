"""Celery's gevent pool, with a task that waits 0.3 s for PostgreSQL and takes its result from a COPY.

In this folder, run a worker, and in another terminal give it twenty tasks::

    DATABASE_URL=postgresql:///postgres celery -A tasks worker -P gevent -c 20 -l INFO
    python -c 'import tasks; [tasks.sleep.delay(number) for number in range(20)]'

The broker is a folder, so that the example needs no server. QUEUE names the folder; the
default is ./queue. In production, set broker_url to that of a real broker.
"""

import io
import os
from pathlib import Path

import psycopg2
from celery import Celery
from celery.signals import worker_init

queue = Path(os.environ.get("QUEUE", "queue"))
messages, control = queue / "messages", queue / "control"
messages.mkdir(parents=True, exist_ok=True)
control.mkdir(exist_ok=True)

app = Celery("tasks")
app.conf.broker_url = "filesystem://"
app.conf.broker_transport_options = {
    "data_folder_in": str(messages),
    "data_folder_out": str(messages),
    "control_folder": str(control),
}


@worker_init.connect
def make_green(**kwargs):
    # Celery hides an exception in this function, and would go on with a blocking psycopg2.
    import psycogreen
    from psycogreen.gevent import make_psycopg_green

    make_psycopg_green()
    print(f"Worker {os.getpid()}: psycopg2 is green ({psycogreen.implementation} loop)", flush=True)


@app.task
def sleep(number, seconds=0.3):
    conn = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT pg_sleep(%s)", (seconds,))
            cur.copy_expert(f"COPY (SELECT {number}) TO STDOUT", copy := io.StringIO())
    finally:
        conn.close()
    return int(copy.getvalue())
