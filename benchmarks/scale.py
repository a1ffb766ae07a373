"""Thousands of greenlets, each with a connection, through PgBouncer to 50 connections of the server.

The table shows queries a second, CPU time per query of the client alone, and its peak
of memory. "first" is the time until the first greenlet had done its share, divided by
the time of all: the nearer to 1, the fairer. The clients take turns, as in cputime.py.
pgbench shows what PgBouncer can do. PgBouncer must be installed.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import psycopg2
from driver import Client, evenly, main, variants
from floor import Pgbench
from psycopg2.extensions import parse_dsn

CONNECTIONS = (100, 1000, 10000)
ROUNDS = 5
# Queries in a round: a second or more.
ROUND = 40000
SERVER_CONNECTIONS = 50


@contextlib.contextmanager
def pooler(dsn):
    """Run PgBouncer in transaction mode before the server of *dsn*; yield its DSN."""
    program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
    if not program:
        raise SystemExit("PgBouncer is not there: apt-get install pgbouncer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = parse_dsn(dsn)
    where = " ".join(f"{name}={where[name]}" for name in ("host", "port") if name in where)
    with tempfile.TemporaryDirectory() as directory:
        ini = pathlib.Path(directory, "pgbouncer.ini")
        ini.write_text(
            f"[databases]\npostgres = {where} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nauth_type = any\nunix_socket_dir =\npool_mode = transaction\n"
            f"max_client_conn = 12000\ndefault_pool_size = {SERVER_CONNECTIONS}\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        command = [program, "-q", str(ini)]
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            user = os.stat(
                parse_dsn(dsn)["host"]
            ).st_uid  # the owner of the server's socket, to which no other user may connect
            for path in directory, ini:
                os.chown(path, user, -1)
            command[:0] = ["setpriv", f"--reuid={user}", "--clear-groups"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            pooled = f"host=127.0.0.1 port={port} dbname=postgres user=postgres sslmode=disable"
            try:
                wait_for(pooled)
                yield pooled
            finally:
                process.kill()


def wait_for(dsn):
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg2.connect(dsn).close()
            return
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def measure(what, dsn, tree, connections):
    """Return "wall", "cpu", "first" and "megabytes" of a round of *what*, a Variant or "pgbench"."""
    queries = evenly(max(ROUND, 4 * connections), connections)
    if what == "pgbench":
        times = Pgbench(dsn, connections).round(queries) | {"first": 1, "megabytes": 0}
    else:
        with Client(what, dsn, tree, connections) as client:
            client.round(queries)  # a warm-up
            times = client.round(queries)
    return {**times, "cpu": times["cpu"] / queries * 1e6, "rate": queries / times["wall"]}


HEADER = f"{'connections':>11}  {'variant':18} {'queries/s':>9} {'CPU us':>6} {'of 1.0.2':>9} {'first':>6} {'MB':>5}"


def rows(args, dsn):
    clients = [*variants(args.hubs, ("1.0.2", "compiled")), "pgbench"]
    with pooler(dsn) as pooled:
        for connections in CONNECTIONS:
            rounds = [[measure(what, pooled, args.tree, connections) for what in clients] for _ in range(ROUNDS)]
            medians = {
                str(what): {key: statistics.median(each[n][key] for each in rounds) for key in rounds[0][n]}
                for n, what in enumerate(clients)
            }
            for name, each in medians.items():
                of = medians.get(f"{name.split()[0]} 1.0.2")
                ratio = {key: each[key] / of[key] for key in ("cpu", "rate")} if of else {}
                yield {"variant": name, "connections": connections, "of 1.0.2": ratio, **each}


def line(row):
    ratios = row["of 1.0.2"]
    shown = f"{ratios['rate']:.2f} {ratios['cpu']:.2f}" if ratios else ""
    return (
        f"{row['connections']:11}  {row['variant']:18} {row['rate']:9,.0f} {row['cpu']:6.1f} {shown:>9}"
        f" {row['first']:6.2f} {row['megabytes']:5.0f}"
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
