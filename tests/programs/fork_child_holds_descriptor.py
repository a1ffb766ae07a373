"""A child holds a connection that its parent has closed; prints how much CPU time the parent's sleep takes."""

from support.tickers import sleep_takes
from unpatched import connect, held_by_a_child, known_connection, query, sleep, spawn, wait

held, other = known_connection(), known_connection()
with held_by_a_child():
    held.close()  # the server answers by closing its end
    replacement = connect()
    for _ in range(3):
        assert wait(spawn(query, replacement, "SELECT 8 FROM pg_sleep(0.02)")) == 8
    assert wait(spawn(query, other, "SELECT 9 FROM pg_sleep(0.01)")) == 9
    print(sleep_takes(sleep))
    for connection in (other, replacement):
        assert wait(spawn(query, connection, "SELECT 9 FROM pg_sleep(0.01)")) == 9
