"""PostgreSQL servers for the tests."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.processes import serving

# The addresses of programs/pgpair.py. They are in one network, but not in that of
# 127.0.0.1. So getaddrinfo() keeps the addresses of one name in the order of /etc/hosts.
PRIMARY, STANDBY, BOUNCER = "127.0.2.1", "127.0.2.2", "127.0.2.3"


def system_server() -> Path | None:
    """Return the directory with the programs of PostgreSQL's server: the one that PSYCOGREEN_TEST_POSTGRES names, or
    that of the newest server that is installed."""
    named = os.environ.get("PSYCOGREEN_TEST_POSTGRES")
    if named:
        return Path(named)
    servers = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if servers:
        return Path(max(servers, key=lambda path: float(path.split("/")[4]))).parent
    postgres = shutil.which("postgres")
    return Path(postgres).parent if postgres else None


def bouncer_program() -> str | None:
    """Return the path of PgBouncer, if there is one."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run programs/pgserver.py; yield its DSN."""
    with serving("pgserver", *arguments) as (dsn, _):
        yield dsn


@contextmanager
def database() -> Iterator[str]:
    """Yield the DSN of the server that the environment names, or of a new server.

    DATABASE_URL comes first. libpq's variables come next: then the DSN is empty.
    """
    if os.environ.get("DATABASE_URL"):
        yield os.environ["DATABASE_URL"]
    elif any(name in os.environ for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")):
        yield ""
    else:
        print("Starting a PostgreSQL server...", flush=True)
        with server() as dsn:
            yield dsn
