"""A proxy to a PostgreSQL server, in a process of its own so that SIGSTOP can cut the network.

``proxy.py HOST PORT`` prints the port of 127.0.0.1 that it listens on; HOST may
be the directory of a unix socket. It ends with its standard input.
"""

import sys

from support.network import Proxy

# A short backlog, which fills up soon when the process is stopped.
proxy = Proxy(*sys.argv[1:], backlog=3)
print(proxy.port, flush=True)
sys.stdin.read()
