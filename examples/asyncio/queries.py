"""psycopg2 and other waits side by side on asyncio.

Run it with ``DATABASE_URL=postgresql:///postgres python queries.py``, and
``python queries.py uvloop`` for uvloop. Ten waits of half a second take little more
than half a second. A query that takes too long is cancelled in the server.
"""

import asyncio
import os
import sys
import time

import psycopg2

from psycogreen.asyncio import make_psycopg_green, spawn

make_psycopg_green()


def ask(number):
    """Plain blocking code, without asyncio."""
    conn = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    try:
        with conn, conn.cursor() as cur:
            cur.execute("SELECT %s FROM pg_sleep(0.5)", [number])
            return cur.fetchone()[0]
    finally:
        conn.close()


def ask_too_much():
    conn = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    try:
        conn.cursor().execute("SELECT pg_sleep(60)")
    finally:
        conn.close()


async def main():
    began = time.monotonic()
    others = [asyncio.sleep(0.5, f"timer {number}") for number in range(5)]
    print(*await asyncio.gather(*[spawn(ask, number) for number in range(5)], *others))
    print(f"{time.monotonic() - began:.1f} s")
    try:
        await asyncio.wait_for(spawn(ask_too_much), 0.2)
    except asyncio.TimeoutError:
        print("It took too long.")


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
