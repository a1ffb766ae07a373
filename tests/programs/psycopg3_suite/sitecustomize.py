"""Makes psycopg 3 green in each Python process of psycopg's own suite, before anything is imported.

Python imports this module when it starts, because psycopg3_suite.py puts this directory on PYTHONPATH.
PSYCOGREEN_SUITE_REGISTERED is the hub and the expected value of psycogreen.implementation, or empty
for blocking psycopg.
"""

import importlib
import os
import socket
import warnings


def connect_ex(self: socket.socket, address: tuple[str, int]) -> int:
    """Return what eventlet's own raises."""
    try:
        self.connect(address)
    except OSError as exc:
        return exc.errno or 0
    return 0


registered = os.environ.get("PSYCOGREEN_SUITE_REGISTERED")
# The suite's own process alone is monkey-patched: pproxy, which tests start, is a program for asyncio.
patched = os.environ.pop("PSYCOGREEN_SUITE_PATCHED", "")
if registered:
    hub, implementation = registered.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about eventlet's deprecation, which the suite would turn into an error
        # The main thread gets a hub. Without one, its waits would block it.
        if hub == "gevent":
            import gevent.monkey

            if patched:
                gevent.monkey.patch_all()
            gevent.get_hub()
        else:
            import eventlet
            import eventlet.hubs

            if patched:
                eventlet.monkey_patch()
                socket.socket.connect_ex = connect_ex
            eventlet.hubs.get_hub()
        import psycogreen

        green = importlib.import_module(f"psycogreen.{hub}")
    assert psycogreen.implementation == implementation, psycogreen.__file__
    green.make_psycopg_green(drivers=["psycopg"])
    # Tests replace socket.getaddrinfo(), which the hubs do not call.
    green._adapter.getaddrinfo = lambda host: socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
