"""A Django project in one file, on a pool of five connections that all requests share.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server.
"""

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django_db_geventpool.backends.postgresql_psycopg2",
            "NAME": os.environ.get("PGDATABASE", "postgres"),
            # With 0, each request gives its connection back to the pool at its end.
            "CONN_MAX_AGE": 0,
            # Requests wait for a connection while MAX_CONNS are in use.
            "OPTIONS": {"MAX_CONNS": 5, "REUSE_CONNS": 5},
        }
    },
)
django.setup()

from django.db import connection  # noqa: E402


def backend(request: HttpRequest) -> JsonResponse:
    """Return the id of the server process that answered."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(0.1)")
        return JsonResponse({"pid": cursor.fetchone()[0]})


urlpatterns = [path("backend", backend)]

application = get_wsgi_application()
