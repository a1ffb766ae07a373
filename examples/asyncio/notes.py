"""The database of the notes: plain blocking code, the same on eventlet and on asyncio."""

import io


def prepare(conn):
    with conn, conn.cursor() as cur:
        cur.execute("CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL)")


def add(conn, text):
    with conn, conn.cursor() as cur:
        cur.execute("INSERT INTO notes (text) VALUES (%s) RETURNING id", [text])
        return cur.fetchone()[0]


def export(conn):
    """Return all notes as lines."""
    with conn, conn.cursor() as cur:
        cur.copy_expert("COPY (SELECT text FROM notes ORDER BY id) TO STDOUT", notes := io.StringIO())
        return notes.getvalue()


def digest(conn, seconds):
    """Return the number of notes, as slowly as a real report."""
    with conn, conn.cursor() as cur:
        cur.execute("SELECT count(*) FROM notes, pg_sleep(%s)", [seconds])
        return cur.fetchone()[0]
