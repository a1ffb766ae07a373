"""A Django project in one file, without code for greenlets.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server. The driver is psycopg 3 if
it is installed, or else psycopg2: Django decides so.
"""

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ.get("PGDATABASE", "postgres"),
            # The default, and best: a greenlet that ends cannot leave its connection to another.
            "CONN_MAX_AGE": 0,
        }
    },
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402


class Visit(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "example"


def visit(request: HttpRequest, name: str) -> JsonResponse:
    """Record a visit; return the number of visits."""
    with transaction.atomic():
        Visit.objects.create(name=name)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.3)")
    return JsonResponse({"visits": Visit.objects.filter(name=name).count()})


def visits(request: HttpRequest) -> StreamingHttpResponse:
    """Stream all visits from a server-side cursor."""
    return StreamingHttpResponse(
        (f"{visit.name}\n" for visit in Visit.objects.order_by("id").iterator(chunk_size=1000)),
        content_type="text/plain",
    )


urlpatterns = [path("visit/<name>", visit), path("visits", visits)]


def create_tables() -> None:
    """Create the tables, as `manage.py migrate` does in a project of more than one file."""
    if Visit._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Visit)
    connection.close()


application = get_wsgi_application()
