"""CPU time for a connect, and the time for 1,000 at once, in interleaved pairs.

The CPU time is the client's alone, as in cputime.py. If the server listens on a unix
socket only, a relay in this process makes it reachable over TCP; its CPU time is not
counted. "1,000 at once" is wall time, and most of it is the server's.
"""

import contextlib
import socket
import socketserver
import sys
import threading

from cputime import HEADER as HEADER
from cputime import compare
from cputime import line as line
from driver import Client, Variant, evenly, main

CONNECTIONS = 16
# Connects in a round, and pairs of rounds.
ROUND, PAIRS = 160, 21
MANY, PAIRS_OF_MANY = 1000, 5


class Relay(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.server.path)
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=pump, args=(server, self.request), daemon=True).start()
            pump(self.request, server)


def pump(source, target):
    """Copy the data of *source* to *target*, and its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def servers(dsn):
    """Yield (name, DSN) for each way to reach the server of *dsn*."""
    from psycopg2.extensions import make_dsn, parse_dsn

    parameters = parse_dsn(dsn)
    host, port = parameters.get("host", ""), parameters.get("port", "5432")
    if not host.startswith("/"):
        yield [("TCP", dsn)]
        return
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        relay.daemon_threads = True
        relay.path = f"{host}/.s.PGSQL.{port}"
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield [("unix socket", dsn), ("TCP", make_dsn(dsn, host="127.0.0.1", port=relay.server_address[1]))]
        relay.shutdown()


def rows(args, dsn):
    for hub in args.hubs:
        variants = Variant("compiled", hub), Variant("1.0.2", hub)
        with servers(dsn) as reached:
            for name, place in reached:
                with contextlib.ExitStack() as running:
                    a, b = (
                        running.enter_context(Client(each, place, args.tree, CONNECTIONS, work="connect"))
                        for each in variants
                    )
                    queries = evenly(ROUND, CONNECTIONS)
                    yield {"what": f"{hub}, {name}", **compare((a, queries), (b, queries), PAIRS)}
        with contextlib.ExitStack() as running:
            a, b = (
                running.enter_context(Client(each, dsn, args.tree, work="connect", greenlets=MANY)) for each in variants
            )
            yield {"what": f"{hub}, 1,000 at once, wall time", **compare((a, MANY), (b, MANY), PAIRS_OF_MANY, "wall")}


if __name__ == "__main__":
    main(sys.modules[__name__])
