"""One hub after another uses the same connection."""

import psycopg2
from unpatched import DSN, connect, query, replace, spawn, wait


def use():
    for connection in [connect(), kept]:
        assert wait(spawn(query, connection, "SELECT 6 FROM pg_sleep(0.01)")) == 6
        assert query(connection, "SELECT 6 FROM pg_sleep(0.01)") == 6


kept = psycopg2.connect(DSN)
use()
for _ in range(3):
    replace()
    use()
print("used")
