"""Queries, a kill and a native thread, on gevent, without what Python lacks on Windows; the outcome of a COPY.

DSN names the server.
"""

import ctypes
import errno
import io
import os
import select
import threading

import gevent
import gevent.hub
import gevent.os
import gevent.threadpool  # noqa: F401

for module, names in (select, ("poll", "epoll")), (os, ("register_at_fork", "eventfd", "fork", "set_blocking")):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def dup(fd):
    raise OSError(errno.EBADF, "a socket's handle is no descriptor on Windows")


os.dup = os.dup2 = dup
# On Windows, the linker does not search the libraries that a library has loaded.
ctypes.PyDLL = lambda path: object()

import psycopg2  # noqa: E402
from support.outcomes import caught  # noqa: E402

from psycogreen.gevent import make_psycopg_green  # noqa: E402

make_psycopg_green()


def query(n, seconds=0.1):
    connection = psycopg2.connect(os.environ["DSN"])
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s, pg_sleep(%s)", (n, seconds))
        answer = cursor.fetchone()[0]
    connection.close()
    return answer


jobs = [gevent.spawn(query, n) for n in range(5)]
gevent.joinall(jobs, timeout=20, raise_error=True)
print([job.value for job in jobs])

slow = gevent.spawn(query, 0, 60)
slow.join(0.3)
slow.kill()
print(type(slow.value).__name__)

answers = []
thread = threading.Thread(target=lambda: answers.append(caught(query, 7)))
thread.start()
thread.join(20)
print(answers)

with psycopg2.connect(os.environ["DSN"]) as connection, connection.cursor() as cursor:
    print(type(caught(cursor.copy_expert, "COPY (SELECT 1) TO STDOUT", io.StringIO())).__name__)
