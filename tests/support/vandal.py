"""A thread that harms a PostgreSQL server at random moments."""

import collections
import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from typing import Any

import psycopg2

from support.pooled_server import PooledServer


class Vandal:
    """Harms the server until the end of its block: *rate* times a second on average.

    Queries are cancelled on sessions whose application_name is one of *direct*. Sessions
    are ended on these, and on those of a pooler.
    """

    def __init__(
        self, server: PooledServer, direct: tuple[str, ...], rate: float, seed: str, faults: collections.Counter[str]
    ) -> None:
        self.server, self.direct, self.rate, self.random = server, direct, rate, random.Random(seed)
        #: Counts what was done.
        self.faults = faults
        self._connection: Any = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Vandal":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        deeds = {
            self.terminate: 1000,
            self.cancel: 1000,
            self.stop_processes: 8,
            self.kill_process: 4,
            self.restart: 2,
        }
        while not self._over.wait(self.random.expovariate(self.rate)):
            (deed,) = self.random.choices(list(deeds), list(deeds.values()))
            # The server may be down because of the action before.
            with contextlib.suppress(psycopg2.Error, subprocess.CalledProcessError, OSError):
                if deed():
                    self.faults[deed.__name__.replace("_", " ")] += 1

    def _of_a_victim(self, expression: str, names: tuple[str, ...], first: str = "random()") -> Any:
        """Evaluate an expression with the process id of one session; return None if there is no session."""
        if self._connection is None or self._connection.closed:
            self._connection = self.server.connect()
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {expression} FROM (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                f" AND application_name = ANY(%s) ORDER BY {first} LIMIT 1) victim",
                (list(names),),
            )
            row = cursor.fetchone()
            return row and row[0]

    def terminate(self) -> bool:
        """End a session."""
        return bool(self._of_a_victim("pg_terminate_backend(pid)", (*self.direct, "")))

    def cancel(self) -> bool:
        """End a query: of most sessions the query has ended already, so take one that is active, if there is one."""
        return bool(self._of_a_victim("pg_cancel_backend(pid)", self.direct, "(state = 'active') DESC, random()"))

    def stop_processes(self) -> bool:
        """Stop all processes of the server for a while, as on a machine that swaps."""
        stopped = self.server.cluster.processes()
        try:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(self.random.random())
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return bool(stopped)

    def kill_process(self) -> bool:
        """Kill the process of one session: the server then ends all sessions."""
        pid = self._of_a_victim("pid", self.direct)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def restart(self) -> bool:
        """Stop the server at once, and start it."""
        self.server.cluster.stop()
        self.server.cluster.start()
        return True
