"""The hub of tests on eventlet."""

from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.hubs

import psycogreen.eventlet
from hubs.contract import PATIENCE, Hub, Task


class EventletTask(Task):
    def start(self) -> None:
        self.greenlet = eventlet.spawn(self.run)

    def join(self, timeout: float | None = PATIENCE) -> None:
        limit = eventlet.Timeout(timeout)
        try:
            self.greenlet.wait()
        except BaseException as exc:
            if exc is limit:
                raise AssertionError(f"{self.greenlet} did not end within {timeout} s") from None
            if self.done:
                raise
            self._exc = exc  # the greenlet was killed before it ran
        finally:
            limit.cancel()

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        if exc is None:
            self.greenlet.kill()
            return
        exc = exc() if isinstance(exc, type) else exc
        # With fewer than three arguments, kill() fails for a greenlet that has not run yet.
        self.greenlet.kill(type(exc), exc, None)


class Eventlet(Hub):
    name = "eventlet"
    task_type = EventletTask
    Timeout = eventlet.Timeout
    adapter = psycogreen.eventlet
    wait_callback = staticmethod(psycogreen.eventlet.eventlet_wait_callback)
    sleep = staticmethod(eventlet.sleep)

    def current(self) -> Any:
        return getattr(eventlet.hubs._threadlocal, "hub", None)

    def watched(self) -> int:
        hub = eventlet.hubs.get_hub()
        psycogreen.eventlet._waker(hub)  # the first wait makes it, and it stays
        return len(hub.get_readers()) + len(hub.get_writers()) + hub.get_timers_count() - hub.timers_canceled

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        eventlet.hubs.get_hub().schedule_call_global(0, fn, *args)

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        eventlet.hubs.trampoline(fd, read=True, timeout=timeout)


make = Eventlet
