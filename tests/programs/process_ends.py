"""A process exits after a query (idle) or during one (parked)."""

import sys

from unpatched import known_connection, query, sleep, spawn, wait

connection = known_connection()
task = spawn(query, connection, "SELECT pg_sleep(0.2)", 1)
wait(task) if sys.argv[1] == "idle" else sleep(0.05)
