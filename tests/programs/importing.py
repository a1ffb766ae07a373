"""Imports the adapter of the hub that the argument names; prints what the import has left unchanged."""

import importlib
import select
import socket
import sys
import threading

MODULES = select, socket, threading

before = [dict(vars(module)) for module in MODULES]
name = sys.argv[1]
importlib.import_module(f"psycogreen.{name}")
if name == "gevent":
    from gevent._hub_local import get_hub_if_exists

    print(get_hub_if_exists() is None)
elif name == "eventlet":
    import eventlet.hubs

    print(not hasattr(eventlet.hubs._threadlocal, "hub"))
else:
    import asyncio

    print(asyncio._get_running_loop() is None)
print(before == [dict(vars(module)) for module in MODULES])

import psycopg2.extensions  # noqa: E402

print(psycopg2.extensions.get_wait_callback() is None)
