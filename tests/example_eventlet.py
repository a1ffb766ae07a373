"""psycopg2 and urlopen() side by side under eventlet.

Run it with ``python tests/example_eventlet.py``. Six waits of half a second take
little more than half a second: all ask before the first gets its answer.
"""

import eventlet

eventlet.monkey_patch(psycopg=False)  # psycogreen's wait callback replaces eventlet's own

from example_jobs import ask_database, ask_web_server  # noqa: E402
from support.postgres import database  # noqa: E402
from support.processes import serving  # noqa: E402

from psycogreen.eventlet import make_psycopg_green  # noqa: E402

make_psycopg_green()

with database() as dsn, serving("slow_web_server") as (url, _):
    tasks = [eventlet.spawn(ask_database, f"query {n}", dsn) for n in range(1, 4)]
    tasks += [eventlet.spawn(ask_web_server, f"request {n}", url) for n in range(1, 4)]
    for task in tasks:
        task.wait()
