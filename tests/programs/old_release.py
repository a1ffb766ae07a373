"""Calls that users of release 1.0.2 make, on the adapter of the hub that the argument names."""

import importlib
import os
import sys
from functools import partial

import psycopg2
from psycopg2.extensions import get_wait_callback, set_wait_callback

import psycogreen

adapter = importlib.import_module(f"psycogreen.{sys.argv[1]}")
wait_callback = getattr(adapter, f"{sys.argv[1]}_wait_callback")
assert psycogreen.__version__
adapter.patch_psycopg()
assert get_wait_callback() is wait_callback
for callback in wait_callback, partial(wait_callback, timeout=1):
    set_wait_callback(callback)
    connection = psycopg2.connect(os.environ["DSN"])
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    print(cursor.fetchone()[0])
