"""Django in eventlet's WSGI server: ``python examples/django/on_eventlet.py``, then http://127.0.0.1:8000/visit/me."""

import eventlet

eventlet.monkey_patch(psycopg=False)

from psycogreen.eventlet import make_psycopg_green  # noqa: E402

make_psycopg_green()

import os  # noqa: E402

import eventlet.wsgi  # noqa: E402
from app import application, create_tables  # noqa: E402

create_tables()
eventlet.wsgi.server(eventlet.listen(("127.0.0.1", int(os.environ.get("PORT", 8000)))), application)
