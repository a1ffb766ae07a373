from psycogreen._waiters import has_waiter as has_waiter
from psycogreen._waiters import waiter_of as waiter_of
from psycogreen._waitloop_py import generator_wait as generator_wait
from psycogreen._waitloop_py import start_greenlet as start_greenlet
from psycogreen._waitloop_py import wait_callback as wait_callback

implementation: str
poller: str | None
