"""Queries end in the server if another greenlet closes their connection or kills them; Django reconnects."""

from patched import Killed, executing, kill, kill_ten, spawn, start_ticker, until, wait
from with_django import is_psycopg3, pooled

# isort: split
import django.db
from django.db import close_old_connections, connection, transaction
from support.outcomes import caught

ticker = start_ticker()
wrappers = []


def sleeper(words):
    connection.inc_thread_sharing()
    wrappers.append(django.db.connections["default"])
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_sleep(60) /* {words} */")
    except Killed:
        # The next query reconnects.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
        raise


if not pooled:  # a pool takes connections back only from the greenlets that use them
    greenlet = spawn(caught, sleeper, "close")
    until(lambda: executing("/* close */") == 1)
    wrappers[0].close()
    error = wait(greenlet)
    closed, words = (
        (django.db.OperationalError, "the connection is closed")
        if is_psycopg3
        else (django.db.InterfaceError, "connection closed by another greenlet")
    )
    assert isinstance(error, closed) and words in str(error), repr(error)
    until(lambda: executing("/* close */") == 0)

    wrappers.clear()
    greenlet = spawn(caught, sleeper, "old")
    until(lambda: executing("/* old */") == 1)
    close_old_connections()  # the connections of this greenlet
    wrappers[0].close_at = 0
    error = caught(wrappers[0].close_if_unusable_or_obsolete)
    assert error is None, error
    kill(greenlet, Killed())
    assert isinstance(wait(greenlet), (Killed, django.db.Error))
    until(lambda: executing("/* old */") == 0)

kill_ten(lambda: sleeper("kill"), "/* kill */")
assert ticker.longest_gap < 0.05, ticker.longest_gap
