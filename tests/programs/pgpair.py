"""A PostgreSQL primary, a hot standby of it and a PgBouncer in front of it, for tests of connecting.

They listen on one free port of three loopback addresses, without TLS. All
users are trusted, but *alice* needs her password on the primary.

``pgpair.py`` prints the port and the directory of the primary's unix socket. All
servers stop when standard input ends, as in pgserver.py.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.cluster import Cluster
from support.network import free_port
from support.postgres import BOUNCER, PRIMARY, STANDBY, bouncer_program
from support.waiting import wait_until

_HBA = "local all all trust\nhost all all all trust\nhost replication all all trust\n"


def serve(directory: Path, started: contextlib.ExitStack) -> None:
    bouncer = bouncer_program()
    assert bouncer
    port = free_port()
    primary, standby = Cluster(directory / "primary"), Cluster(directory / "standby")

    def start(cluster: Cluster, address: str, hba: str) -> None:
        sockets = directory / f"socket-{cluster.data.name}"
        sockets.mkdir()
        if cluster.as_postgres:
            shutil.chown(sockets, "postgres")
        (cluster.data / "pg_hba.conf").write_text(hba)
        cluster.configure(listen_addresses=address, port=port, unix_socket_directories=sockets)
        started.callback(cluster.stop)
        cluster.start()

    primary.create()
    start(primary, PRIMARY, "host all alice all scram-sha-256\n" + _HBA)
    there = ["-h", PRIMARY, "-p", port, "-U", "postgres"]
    primary.run("psql", "-q", *there, "-c", "create role alice login password 'secret'")
    primary.run("pg_basebackup", *there, "-D", standby.data, "-R", "-c", "fast", "-N")
    start(standby, STANDBY, _HBA)
    ini = directory / "bouncer.ini"
    ini.write_text(
        f"[databases]\npostgres = host={PRIMARY} port={port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = {BOUNCER}\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
    )
    pooler = subprocess.Popen([*primary.as_postgres, bouncer, "-q", ini], stderr=subprocess.DEVNULL)
    started.callback(pooler.wait)
    started.callback(pooler.kill)
    isready = [primary.programs / "pg_isready", "-q", "-h", BOUNCER, "-p", str(port)]
    wait_until(lambda: subprocess.run(isready).returncode == 0, timeout=20)
    print(port, directory / "socket-primary", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    directory = Path(tempfile.mkdtemp(prefix="psycogreen-pair-"))
    directory.chmod(0o755)
    try:
        with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as started:
            serve(directory, started)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
