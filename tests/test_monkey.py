"""With the standard library patched or not, whichever was imported first."""

import pytest
from fix_hub import NAME

if NAME == "asyncio":
    pytest.skip("asyncio patches nothing", allow_module_level=True)

PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch(psycopg=False)",
    "eventlet-psycopg": "import eventlet; eventlet.monkey_patch(psycopg=True)",
}
STEPS = {
    "patch": PATCH[NAME],
    "eventlet's": PATCH["eventlet-psycopg"],
    "psycopg2": "import psycopg2",
    "psycogreen": f"import psycogreen.{NAME}",
    "green": f"import psycogreen.{NAME}; psycogreen.{NAME}.make_psycopg_green()",
}
# Whether a query lets others run, and whose callback it was, with the hub's own means.
CHECK = """
import time
import psycopg2
import psycopg2.extensions
from psycogreen.{hub} import {hub}_wait_callback

assert psycopg2.extensions.get_wait_callback() is {hub}_wait_callback, psycopg2.extensions.get_wait_callback()
if "{hub}" == "gevent":
    import gevent
    spawn, sleep, wait = gevent.spawn, gevent.sleep, gevent.Greenlet.get
else:
    import eventlet
    import eventlet.greenthread
    spawn, sleep, wait = eventlet.spawn, eventlet.sleep, eventlet.greenthread.GreenThread.wait

def query():
    connection = psycopg2.connect({dsn!r})
    cursor = connection.cursor()
    cursor.execute("SELECT pg_sleep(0.2)")
    connection.close()

ticks = []
def tick():
    while True:
        sleep(0.01)
        ticks.append(time.monotonic())

spawn(tick)
started = time.monotonic()
for task in [spawn(query) for _ in range(10)]:
    wait(task)
took = time.monotonic() - started
assert 0.2 <= took < 1, took
assert len(ticks) >= 5, len(ticks)
print("overlapped")
"""
# A real thread, which patching hides.
THREAD = """
if "{hub}" == "gevent":
    import gevent.monkey
    start = gevent.monkey.get_original("_thread", "start_new_thread")
    from gevent._hub_local import get_hub_if_exists as current
else:
    import eventlet.patcher, eventlet.hubs
    start = eventlet.patcher.original("_thread").start_new_thread
    current = lambda: getattr(eventlet.hubs._threadlocal, "hub", None)
outcome = []
def in_thread():
    try:
        query()
        outcome.append(current())
    except BaseException as exc:
        outcome.append(repr(exc))
del ticks[:]
start(in_thread, ())
while not outcome:
    sleep(0.01)
assert len(ticks) >= 5, len(ticks)
print(outcome.pop())
"""

ORDERS = [
    ["green"],
    ["psycopg2", "green"],
    ["patch", "green"],
    ["patch", "psycopg2", "green"],
    ["psycopg2", "patch", "green"],
    ["psycogreen", "patch", "green"],
    ["psycogreen", "psycopg2", "patch", "green"],
    ["green", "patch"],
    ["psycopg2", "green", "patch"],
]
if NAME == "eventlet":
    ORDERS += [
        ["eventlet's", "green"],
        ["psycogreen", "eventlet's", "green"],
        ["psycopg2", "psycogreen", "eventlet's", "green"],
        ["green", "eventlet's"],
    ]


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_orders(order, run_script, dsn):
    script = "\n".join(STEPS[step] for step in order) + CHECK + THREAD
    assert run_script(script.replace("{dsn!r}", repr(dsn)), hub=NAME).split() == ["overlapped", "None"]


def test_a_native_thread_is_one_although_threads_are_patched(run_script):
    script = STEPS["patch"] + """
import time
from _thread import get_native_id
from psycogreen.{hub} import _adapter
native = []
_adapter.start_thread(lambda: native.append(get_native_id()))
while not native:
    time.sleep(0.001)
print(native != [get_native_id()])
"""
    assert run_script(script, hub=NAME) == "True"
