"""Takes the steps that the arguments name, and tells whether a query then lets other greenlets run.

The first argument is the hub. Then a query runs in a native thread, whose functions
monkey-patching hides, and the program tells which hub that thread has.
"""

import importlib
import os
import sys
import time

NAME, *STEPS = sys.argv[1:]


def adapter():
    return importlib.import_module(f"psycogreen.{NAME}")


def patch(**kwargs):
    if NAME == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all(**kwargs)
    else:
        import eventlet

        eventlet.monkey_patch(**{"psycopg": False, **kwargs})


def take(step):
    if step == "patch":
        patch()
    elif step == "eventlet's":
        patch(psycopg=True)
    elif step == "psycopg2":
        importlib.import_module("psycopg2")
    elif step == "psycogreen":
        adapter()
    elif step == "green":
        adapter().make_psycopg_green()
    else:
        sys.exit(f"unknown step: {step}")


for step in STEPS:
    take(step)

# Only with the hub's own functions.
import psycopg2  # noqa: E402
import psycopg2.extensions  # noqa: E402

callback = psycopg2.extensions.get_wait_callback()
assert callback is getattr(adapter(), f"{NAME}_wait_callback"), callback
if NAME == "gevent":
    import gevent
    import gevent.monkey
    from gevent._hub_local import get_hub_if_exists

    spawn, sleep, wait = gevent.spawn, gevent.sleep, gevent.Greenlet.get
    start = gevent.monkey.get_original("_thread", "start_new_thread")
    current_hub = get_hub_if_exists
else:
    import eventlet
    import eventlet.greenthread
    import eventlet.hubs
    import eventlet.patcher

    spawn, sleep, wait = eventlet.spawn, eventlet.sleep, eventlet.greenthread.GreenThread.wait
    start = eventlet.patcher.original("_thread").start_new_thread

    def current_hub():
        return getattr(eventlet.hubs._threadlocal, "hub", None)


def query():
    connection = psycopg2.connect(os.environ["DSN"])
    cursor = connection.cursor()
    cursor.execute("SELECT pg_sleep(0.2)")
    connection.close()


def tick():
    while True:
        sleep(0.01)
        ticks.append(time.monotonic())


def in_thread():
    try:
        query()
        outcome.append(current_hub())
    except BaseException as exc:  # noqa: BLE001
        outcome.append(repr(exc))


ticks, outcome = [], []
spawn(tick)
started = time.monotonic()
for task in [spawn(query) for _ in range(10)]:
    wait(task)
took = time.monotonic() - started
assert 0.2 <= took < 1, took
assert len(ticks) >= 5, len(ticks)
print("overlapped")
del ticks[:]
start(in_thread, ())
while not outcome:
    sleep(0.01)
assert len(ticks) >= 5, len(ticks)
print(outcome.pop())
