"""A PostgreSQL primary, a hot standby of it and a PgBouncer in front of it, for tests of connecting.

They listen on one free port of three loopback addresses, without TLS. All
users are trusted, but *alice* needs her password on the primary.

``pgpair.py`` prints the port and the directory of the primary's
unix socket. Everything ends with standard input, as in pgserver.py.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.network import free_port
from support.postgres import BOUNCER, PRIMARY, STANDBY, bouncer_program, system_server
from support.waiting import wait_until

_HBA = "local all all trust\nhost all all all trust\nhost replication all all trust\n"


def serve(directory: Path, started: contextlib.ExitStack) -> None:
    programs = system_server()
    bouncer = bouncer_program()
    assert programs and bouncer
    account = pwd.getpwnam("postgres")
    user = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        os.chown(directory, account.pw_uid, account.pw_gid)
        user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]

    def run(program: Path | str, *arguments: object) -> None:
        subprocess.run([*user, program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, cwd=directory)

    def start(data: Path, address: str, hba: str) -> None:
        sockets = directory / f"socket-{data.name}"
        sockets.mkdir()
        if user:
            os.chown(sockets, account.pw_uid, account.pw_gid)
        (data / "pg_hba.conf").write_text(hba)
        with open(data / "postgresql.auto.conf", "a") as conf:
            conf.write(
                f"listen_addresses = '{address}'\nport = {port}\nunix_socket_directories = '{sockets}'\nfsync = off\n"
            )
        pg_ctl = [programs / "pg_ctl", "-D", data, "-w", "-l", directory / f"log-{data.name}"]
        started.callback(run, *pg_ctl, "-m", "immediate", "stop")
        run(*pg_ctl, "start")

    port = free_port()
    primary, standby = directory / "primary", directory / "standby"
    run(programs / "initdb", "-D", primary, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
    start(primary, PRIMARY, "host all alice all scram-sha-256\n" + _HBA)
    run(
        programs / "psql",
        "-qh",
        PRIMARY,
        "-p",
        port,
        "-U",
        "postgres",
        "-c",
        "create role alice login password 'secret'",
    )
    run(
        programs / "pg_basebackup", "-h", PRIMARY, "-p", port, "-U", "postgres", "-D", standby, "-R", "-c", "fast", "-N"
    )
    start(standby, STANDBY, _HBA)
    ini = directory / "bouncer.ini"
    ini.write_text(
        f"[databases]\npostgres = host={PRIMARY} port={port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = {BOUNCER}\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
    )
    pooler = subprocess.Popen([*user, bouncer, "-q", ini], stderr=subprocess.DEVNULL)
    started.callback(pooler.wait)
    started.callback(pooler.kill)
    isready = [programs / "pg_isready", "-q", "-h", BOUNCER, "-p", str(port)]
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
