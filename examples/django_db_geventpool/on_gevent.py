"""Django with a pool in gevent's WSGI server: ``python examples/django_db_geventpool/on_gevent.py``, then http://127.0.0.1:8000/backend."""

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import make_psycopg_green  # noqa: E402

make_psycopg_green()

import os  # noqa: E402

from app import application  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

WSGIServer(("127.0.0.1", int(os.environ.get("PORT", 8000))), application).serve_forever()
