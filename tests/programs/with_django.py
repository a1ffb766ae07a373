"""Django on the monkey-patched hub, set up for the server."""

import os

import patched  # noqa: F401

# isort: split
import django
from django.conf import settings
from psycopg2.extensions import parse_dsn

parameters = parse_dsn(os.environ["DSN"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parameters.pop("dbname"),
            "OPTIONS": parameters,
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        }
    }
)
django.setup()

from django.db import connection  # noqa: E402

from psycogreen._psycopg2.connection import GreenConnection  # noqa: E402

connection.ensure_connection()
assert isinstance(connection.connection, GreenConnection)
