"""SQLAlchemy on the monkey-patched hub, set up for the server.

The environment variable DRIVER names the driver: psycopg2, or psycopg, which is psycopg 3.
"""

import importlib
import os

import patched  # noqa: F401

# isort: split
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

driver = importlib.import_module(os.environ["DRIVER"])
URL = f"postgresql+{driver.__name__}://"


def connect():
    return driver.connect(os.environ["DSN"], application_name="psycogreen")


engine = create_engine(URL, creator=connect, pool_size=5, max_overflow=5, pool_pre_ping=True)
assert type(engine.pool) is QueuePool
monitor = create_engine(URL, creator=connect, isolation_level="AUTOCOMMIT")


def query(n):
    """Return *n* from a query that takes 20 ms."""
    with engine.begin() as conn:
        return conn.scalar(text("SELECT :n + 0 * length(pg_sleep(0.02)::text)"), {"n": n})


# The first connection makes the dialect ask for the server's version.
with monitor.connect() as conn:
    conn.execute(text("SELECT 1"))
