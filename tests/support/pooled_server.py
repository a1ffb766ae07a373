"""A PostgreSQL server on a unix socket and on TCP with TLS, and PgBouncer in front of it."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg2

from support.cluster import Cluster
from support.network import free_port
from support.postgres import bouncer_program
from support.waiting import wait_until


class PooledServer:
    """The server and its pooler. They run until *started* ends. The server takes *sessions* at once."""

    def __init__(self, directory: Path, started: contextlib.ExitStack, sessions: int) -> None:
        self.cluster = Cluster(directory / "data")
        self.cluster.create()
        self.directory, self.port = directory, free_port()
        self._make_certificate()
        self.cluster.configure(
            listen_addresses="127.0.0.1",
            port=self.port,
            unix_socket_directories=directory,
            ssl="on",
            ssl_cert_file=directory / "cert.pem",
            ssl_key_file=directory / "key.pem",
            max_connections=sessions,
            restart_after_crash="on",
        )
        self.cluster.start()
        started.callback(self.cluster.stop)
        self.bouncer_port = free_port()
        self._start_bouncer(started)

    def _make_certificate(self) -> None:
        import trustme

        certificate = trustme.CA().issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(self.directory / "cert.pem"))
        for name in "key.pem", "cert.pem":
            (self.directory / name).chmod(0o600)
            if self.cluster.as_postgres:
                os.chown(self.directory / name, self.directory.stat().st_uid, self.directory.stat().st_gid)

    def _start_bouncer(self, started: contextlib.ExitStack) -> None:
        program = bouncer_program()
        assert program, "no PgBouncer: apt-get install pgbouncer"
        server = f"host=127.0.0.1 port={self.port} dbname=postgres user=postgres"
        ini = self.directory / "bouncer.ini"
        ini.write_text(
            f"[databases]\nsession = {server} pool_mode=session\ntransaction = {server} pool_mode=transaction\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.bouncer_port}\nauth_type = any\n"
            "unix_socket_dir =\ndefault_pool_size = 20\nserver_login_retry = 1\nmax_client_conn = 500\n"
            "ignore_startup_parameters = application_name\n"
        )
        command = [*self.cluster.as_postgres, program, "-q", ini]
        # Linux shares the processor out by sessions.
        bouncer = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        started.callback(bouncer.wait)
        started.callback(bouncer.kill)

    def dsn(self, host: object, port: int | None = None, database: str = "postgres") -> str:
        return f"host={host} port={port or self.port} dbname={database} user=postgres"

    def connect(self) -> Any:
        """Return a connection in autocommit mode; wait for the server's recovery, if need be."""

        def attempt() -> Any:
            with contextlib.suppress(psycopg2.OperationalError):
                return psycopg2.connect(self.dsn(self.directory), application_name="soak")

        connection = wait_until(attempt)
        connection.autocommit = True
        return connection

    def query(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        """Execute *query* on a connection of its own."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query, args or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
            return rows
