"""Django on the monkey-patched hub, set up for the server.

Django takes psycopg 3 if it can be imported. The environment variable POOL gives it a pool of psycopg's.
"""

import logging
import os

import patched  # noqa: F401

# isort: split
import django
from django.conf import settings
from psycopg2.extensions import parse_dsn

parameters = parse_dsn(os.environ["DSN"])
database_name = parameters.pop("dbname")
pooled = bool(os.environ.get("POOL"))
if pooled:
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns of each connection that a program breaks
    parameters["pool"] = {"min_size": 2, "max_size": 25}
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": database_name,
            "OPTIONS": parameters,
            "CONN_MAX_AGE": 0 if pooled else 60,  # Django allows only one of the two
            "CONN_HEALTH_CHECKS": True,
        }
    }
)
django.setup()

from django.db import connection  # noqa: E402
from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: E402

from psycogreen._psycopg2.connection import GreenConnection  # noqa: E402

connection.ensure_connection()
assert is_psycopg3 or isinstance(connection.connection, GreenConnection)
