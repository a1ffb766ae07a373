"""psycopg2 and urlopen() side by side under gevent.

Run it with ``python tests/example_gevent.py``. Six waits of half a second take
little more than half a second: all ask before the first gets its answer.
"""

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402
from example_jobs import ask_database, ask_web_server  # noqa: E402
from support.postgres import database  # noqa: E402
from support.processes import serving  # noqa: E402

from psycogreen.gevent import make_psycopg_green  # noqa: E402

make_psycopg_green()

with database() as dsn, serving("slow_web_server") as (url, _):
    gevent.joinall(
        [gevent.spawn(ask_database, f"query {n}", dsn) for n in range(1, 4)]
        + [gevent.spawn(ask_web_server, f"request {n}", url) for n in range(1, 4)],
        raise_error=True,
    )
