"""Tells whether the adapter starts a native thread although threads are patched. The argument is the hub."""

import importlib
import sys
import time

if sys.argv[1] == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()
else:
    import eventlet

    eventlet.monkey_patch(psycopg=False)

from _thread import get_native_id  # noqa: E402

native = []
importlib.import_module(f"psycogreen.{sys.argv[1]}")._adapter.start_thread(lambda: native.append(get_native_id()))
while not native:
    time.sleep(0.001)
print(native != [get_native_id()])
