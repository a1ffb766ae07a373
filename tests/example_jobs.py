"""The work of both examples: plain blocking code, without greenlets."""

import functools
import time
from urllib.request import urlopen

import psycopg2


def ask_web_server(name: str, url: str) -> None:
    tell(name, "asks")
    with urlopen(url) as response:
        answer = response.read().decode().strip()
    tell(name, f"was told: {answer}")


def ask_database(name: str, dsn: str) -> None:
    conn = psycopg2.connect(dsn)
    try:
        with conn, conn.cursor() as cur:
            tell(name, "asks")
            cur.execute("SELECT 'done' FROM pg_sleep(0.5)")
            (answer,) = cur.fetchone()
        tell(name, f"was told: {answer}")
    finally:
        conn.close()


def tell(name: str, what: str) -> None:
    since = first_time()
    print(f"{time.monotonic() - since:6.3f} s  {name:10}  {what}", flush=True)


@functools.cache
def first_time() -> float:
    return time.monotonic()
