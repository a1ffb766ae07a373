"""The client whose memory is measured: greenlets parked in queries.

memory.py runs it with PYTHONMALLOC=malloc, so that the C library's count of allocated
memory (mallinfo2) includes Python's objects, libpq's, and the slices of the C stack
that greenlet saves.
"""

import argparse
import ctypes
import gc
import json

CONNECTIONS = 200


class Mallinfo2(ctypes.Structure):
    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def allocated():
    gc.collect()
    info = mallinfo2()
    return info.uordblks + info.hblkhd


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hub", choices=["gevent", "eventlet"])
    parser.add_argument("--dsn", required=True)
    args = parser.parse_args()
    if args.hub == "gevent":
        from gevent import joinall, sleep, spawn
        from gevent.socket import wait_read

        from psycogreen.gevent import patch_psycopg
    else:
        from eventlet import sleep, spawn
        from eventlet.hubs import trampoline

        from psycogreen.eventlet import patch_psycopg

        def wait_read(fd):
            trampoline(fd, read=True)

        def joinall(tasks):
            for task in tasks:
                task.wait()

    import psycopg2

    import psycogreen

    patch_psycopg()

    def connect():
        conn = psycopg2.connect(args.dsn)
        conn.autocommit = True
        return conn, conn.cursor()

    _control, control = connect()
    connections = [connect() for _ in range(CONNECTIONS)]
    pids = [conn.info.backend_pid for conn, _ in connections]

    def in_query(conn, cursor):
        cursor.execute("SELECT pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1)")
        cursor.execute("LISTEN benchmark")  # frees the result, which a parked query does not have

    def in_hub(conn, cursor):
        wait_read(conn.fileno())
        conn.poll()

    def park_in_query():
        """Park all greenlets in a query; return the memory allocated then and afterwards."""
        control.execute("SELECT pg_advisory_lock(1)")
        tasks = [spawn(in_query, *each) for each in connections]
        waiting = 0
        while waiting < CONNECTIONS:
            sleep(0.01)
            control.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ANY(%s)", (pids,))
            (waiting,) = control.fetchone()
        parked = allocated()
        control.execute("SELECT pg_advisory_unlock(1)")
        joinall(tasks)
        del tasks
        return parked, allocated()

    def park_in_hub():
        """Park all greenlets in the hub's own wait, until each gets a NOTIFY; return the same."""
        tasks = [spawn(in_hub, *each) for each in connections]
        sleep(0.05)
        parked = allocated()
        control.execute("NOTIFY benchmark")
        joinall(tasks)
        for conn, _ in connections:
            conn.notifies.clear()
        del tasks
        return parked, allocated()

    for _, cursor in connections:
        cursor.execute("LISTEN benchmark")
    for _ in range(2):  # the first time allocates memory that is kept
        hub, after_hub = park_in_hub()
        query, after_query = park_in_query()
    print(
        json.dumps(
            {
                "hub": (hub - after_hub) / CONNECTIONS,
                "query": (query - after_query) / CONNECTIONS,
                "implementation": getattr(psycogreen, "implementation", "1.0.2"),
            }
        )
    )


if __name__ == "__main__":
    main()
