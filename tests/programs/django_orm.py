"""Django's ORM: transactions, locks, server-side cursors, and connections that belong to a greenlet."""

import gc
import os

from patched import spawn, until, wait
from with_django import pooled

# isort: split
import django.db
from django.db import connection, models, transaction
from django.db.models import F, Sum
from support.outcomes import caught


class Account(models.Model):
    name = models.TextField()
    balance = models.IntegerField()

    class Meta:
        app_label = "bank"
        db_table = f"bank_account_{os.getpid()}"


with connection.schema_editor() as editor:
    editor.create_model(Account)
try:
    Account.objects.bulk_create(Account(name=f"account {n}", balance=100) for n in range(2000))
    first, second = Account.objects.order_by("id")[:2]
    committed = []

    def transfer(n):
        # All greenlets lock the same two rows: they wait for each other in the server.
        try:
            with transaction.atomic():
                ids = [first.id, second.id]
                rows = list(Account.objects.select_for_update().filter(id__in=ids).order_by("id"))
                assert len(rows) == 2
                Account.objects.filter(id=first.id).update(balance=F("balance") - n)
                transaction.on_commit(lambda: committed.append(n))
                try:
                    with transaction.atomic():  # a savepoint
                        Account.objects.filter(id=second.id).update(balance=F("balance") + 1000)
                        Account.objects.create(id=first.id, name="twice", balance=0)
                except django.db.IntegrityError:
                    pass
                Account.objects.filter(id=second.id).update(balance=F("balance") + n)
                if n % 5 == 0:
                    raise LookupError(n)
        finally:
            connection.close()

    outcomes = [wait(g) for g in [spawn(caught, transfer, n) for n in range(20)]]
    failed = [n for n, outcome in enumerate(outcomes) if outcome is not None]
    assert failed == [0, 5, 10, 15] and all(type(outcomes[n]) is LookupError for n in failed), outcomes
    assert sorted(committed) == sorted(set(range(20)) - set(failed))
    first.refresh_from_db(), second.refresh_from_db()
    assert (first.balance, second.balance) == (100 - sum(committed), 100 + sum(committed))
    assert Account.objects.aggregate(Sum("balance"))["balance__sum"] == 200_000

    def stream(chunk_size, in_transaction):
        # The server-side cursor is WITH HOLD outside of a transaction.
        def names():
            for row in Account.objects.order_by("id").iterator(chunk_size=chunk_size):
                if row.id == first.id:
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT is_holdable FROM pg_cursors WHERE name LIKE '_django%%'")
                        assert cursor.fetchall() == [(not in_transaction,)]
                yield row.name

        try:
            if in_transaction:
                with transaction.atomic():
                    return list(names())
            return list(names())
        finally:
            connection.close()

    expected = [f"account {n}" for n in range(2000)]
    tasks = [spawn(stream, size, size % 2 == 0) for size in (100, 101, 500, 501, 2000)]
    assert all(wait(task) == expected for task in tasks)

    # One greenlet begins an iterator, another goes on with it.
    rows = Account.objects.order_by("id").iterator(chunk_size=100)
    names = [next(rows).name]
    names += wait(spawn(lambda: [row.name for row in rows]))
    assert names == expected

    # A connection belongs to one greenlet: Django refuses it to others.
    foreign = []

    def owner():
        foreign.append(django.db.connections["default"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    pid = wait(spawn(owner))
    error = caught(foreign[0].cursor)
    assert isinstance(error, django.db.utils.DatabaseError) and "same thread" in str(error), error
    # With CONN_MAX_AGE a greenlet leaves its connection open; the collector closes it.
    del error
    foreign.clear()

    def ended():
        gc.collect()
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
            return cursor.fetchone()[0] == 0

    if not pooled:
        until(ended)
finally:
    with connection.schema_editor() as editor:
        editor.delete_model(Account)
