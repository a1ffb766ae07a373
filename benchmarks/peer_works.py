"""The works that peers.py measures, for each driver as its documentation shows them.

A class for each driver's way of being called. open() connects. The other methods are the
works: each takes an open connection. Every query has a cursor of its own, as most programs
make one. The imports are inside, because no environment has all drivers.
"""

import io
import itertools

# All works, in the order of measuring: what needs much memory comes last.
WORKS = {
    "select_1": "SELECT 1",
    "row_by_key": "a row by key",
    "insert": "an insert in a transaction",
    "connect": "connect and query",
    "thousand_rows": "1,000 rows",
    "copy_in": "COPY 100,000 rows in",
    "copy_out": "COPY 100,000 rows out",
}

KEYS = 10_000
COPIED = 100_000
# Unlogged, so that no insert waits for the disk, and left alone by autovacuum.
TABLES = f"""
CREATE TABLE peer_rows AS
    SELECT n AS id, 'name number ' || n AS name, n * 1.5::float8 AS amount, now() - n * interval '1 s' AS made
    FROM generate_series(1, {KEYS}) n;
ALTER TABLE peer_rows ADD PRIMARY KEY (id);
CREATE UNLOGGED TABLE peer_inserts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, amount float8)
    WITH (autovacuum_enabled = false);
CREATE UNLOGGED TABLE peer_copied (id int, name text);
ANALYZE peer_rows;
"""

COLUMNS = "id, name, amount, made"
THOUSAND = f"SELECT {COLUMNS} FROM peer_rows WHERE id <= 1000"
# The server reads and checks the rows, and drops them: it is the client that is measured.
COPY_IN = "COPY peer_copied FROM STDIN WHERE false"
COPY_SOURCE = f"SELECT n, 'row number ' || n FROM generate_series(1, {COPIED}) n"
COPY_OUT = f"COPY ({COPY_SOURCE}) TO STDOUT"
INSERTED = ("a name", 1.5)
BLOCK = 65536

keys = itertools.cycle(range(1, KEYS + 1))


def data():
    """Return a file with the rows for COPY."""
    if not _data:
        _data.append("".join(f"{n}\trow number {n}\n" for n in range(COPIED)).encode())
    return io.BytesIO(_data[0])


# Made when the first COPY needs it, and not a part of the memory of other works.
_data = []


class Psycopg2:
    def __init__(self, dsn):
        import psycopg2

        self.driver, self.dsn = psycopg2, dsn

    def open(self):
        conn = self.driver.connect(self.dsn)
        conn.autocommit = True
        return conn

    def select_1(self, conn):
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()

    def row_by_key(self, conn):
        with conn.cursor() as cursor:
            cursor.execute(f"SELECT {COLUMNS} FROM peer_rows WHERE id = %s", (next(keys),))
            cursor.fetchone()

    def insert(self, conn):
        with conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO peer_inserts (name, amount) VALUES (%s, %s)", INSERTED)

    def connect(self, conn):
        new = self.open()
        self.select_1(new)
        new.close()

    def thousand_rows(self, conn):
        with conn.cursor() as cursor:
            cursor.execute(THOUSAND)
            cursor.fetchall()

    def copy_in(self, conn):
        with conn.cursor() as cursor:
            cursor.copy_expert(COPY_IN, data())

    def copy_out(self, conn):
        with conn.cursor() as cursor:
            cursor.copy_expert(COPY_OUT, io.BytesIO())


class Psycopg3:
    def __init__(self, dsn):
        import psycopg

        self.driver, self.dsn = psycopg, dsn

    def open(self):
        return self.driver.connect(self.dsn, autocommit=True)

    def select_1(self, conn):
        conn.execute("SELECT 1").fetchone()

    def row_by_key(self, conn):
        conn.execute(f"SELECT {COLUMNS} FROM peer_rows WHERE id = %s", (next(keys),)).fetchone()

    def insert(self, conn):
        with conn.transaction():
            conn.execute("INSERT INTO peer_inserts (name, amount) VALUES (%s, %s)", INSERTED)

    def connect(self, conn):
        with self.open() as new:
            self.select_1(new)

    def thousand_rows(self, conn):
        conn.execute(THOUSAND).fetchall()

    def copy_in(self, conn):
        file = data()
        with conn.cursor() as cursor, cursor.copy(COPY_IN) as copy:
            while block := file.read(BLOCK):
                copy.write(block)

    def copy_out(self, conn):
        file = io.BytesIO()
        with conn.cursor() as cursor, cursor.copy(COPY_OUT) as copy:
            for block in copy:
                file.write(block)


class AsyncPsycopg3:
    def __init__(self, dsn):
        import psycopg

        self.driver, self.dsn = psycopg, dsn

    async def open(self):
        return await self.driver.AsyncConnection.connect(self.dsn, autocommit=True)

    async def select_1(self, conn):
        cursor = await conn.execute("SELECT 1")
        await cursor.fetchone()

    async def row_by_key(self, conn):
        cursor = await conn.execute(f"SELECT {COLUMNS} FROM peer_rows WHERE id = %s", (next(keys),))
        await cursor.fetchone()

    async def insert(self, conn):
        async with conn.transaction():
            await conn.execute("INSERT INTO peer_inserts (name, amount) VALUES (%s, %s)", INSERTED)

    async def connect(self, conn):
        async with await self.open() as new:
            await self.select_1(new)

    async def thousand_rows(self, conn):
        cursor = await conn.execute(THOUSAND)
        await cursor.fetchall()

    async def copy_in(self, conn):
        file = data()
        async with conn.cursor() as cursor, cursor.copy(COPY_IN) as copy:
            while block := file.read(BLOCK):
                await copy.write(block)

    async def copy_out(self, conn):
        file = io.BytesIO()
        async with conn.cursor() as cursor, cursor.copy(COPY_OUT) as copy:
            async for block in copy:
                file.write(block)


class Aiopg:
    def __init__(self, dsn):
        import aiopg

        self.driver, self.dsn = aiopg, dsn

    async def open(self):
        return await self.driver.connect(self.dsn)

    async def select_1(self, conn):
        async with conn.cursor() as cursor:
            await cursor.execute("SELECT 1")
            await cursor.fetchone()

    async def row_by_key(self, conn):
        async with conn.cursor() as cursor:
            await cursor.execute(f"SELECT {COLUMNS} FROM peer_rows WHERE id = %s", (next(keys),))
            await cursor.fetchone()

    async def insert(self, conn):
        async with conn.cursor() as cursor, cursor.begin():
            await cursor.execute("INSERT INTO peer_inserts (name, amount) VALUES (%s, %s)", INSERTED)

    async def connect(self, conn):
        async with self.driver.connect(self.dsn) as new:
            await self.select_1(new)

    async def thousand_rows(self, conn):
        async with conn.cursor() as cursor:
            await cursor.execute(THOUSAND)
            await cursor.fetchall()

    async def copy_in(self, conn):
        async with conn.cursor() as cursor:
            await cursor.copy_expert(COPY_IN, data())

    async def copy_out(self, conn):
        async with conn.cursor() as cursor:
            await cursor.copy_expert(COPY_OUT, io.BytesIO())


class Asyncpg:
    def __init__(self, dsn):
        import asyncpg

        self.driver, self.dsn = asyncpg, dsn

    async def open(self):
        return await self.driver.connect(self.dsn)

    async def select_1(self, conn):
        await conn.fetchrow("SELECT 1")

    async def row_by_key(self, conn):
        await conn.fetchrow(f"SELECT {COLUMNS} FROM peer_rows WHERE id = $1", next(keys))

    async def insert(self, conn):
        async with conn.transaction():
            await conn.execute("INSERT INTO peer_inserts (name, amount) VALUES ($1, $2)", *INSERTED)

    async def connect(self, conn):
        new = await self.open()
        await self.select_1(new)
        await new.close()

    async def thousand_rows(self, conn):
        await conn.fetch(THOUSAND)

    async def copy_in(self, conn):
        await conn.copy_to_table("peer_copied", source=data(), where="false")

    async def copy_out(self, conn):
        await conn.copy_from_query(COPY_SOURCE, output=io.BytesIO())


DRIVERS = {
    "psycopg2": Psycopg2,
    "psycopg": Psycopg3,
    "psycopg async": AsyncPsycopg3,
    "aiopg": Aiopg,
    "asyncpg": Asyncpg,
}
