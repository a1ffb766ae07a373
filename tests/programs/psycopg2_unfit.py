"""Prints the error of make_psycopg_green() where psycopg2 is "missing", or "without_callbacks"."""

import importlib
import sys

hub, trouble = sys.argv[1:]
if trouble == "missing":
    sys.modules["psycopg2"] = sys.modules["psycopg"] = None
else:
    import psycopg2.extensions

    del psycopg2.extensions.set_wait_callback
adapter = importlib.import_module(f"psycogreen.{hub}")
try:
    adapter.make_psycopg_green()
except ImportError as exc:
    print(exc)
