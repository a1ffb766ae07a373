"""The hub of tests on asyncio; with PSYCOGREEN_TEST_LOOP=uvloop, on uvloop."""

import asyncio
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

import greenlet

import psycogreen.asyncio
from hubs.contract import PATIENCE, Hub, Task

_adapter = psycogreen.asyncio._adapter
_local = threading.local()


def event_loops() -> Any:
    """Return the module that makes this run's event loops, with new_event_loop() and run()."""
    if os.environ.get("PSYCOGREEN_TEST_LOOP") == "uvloop":
        import uvloop

        return uvloop
    return asyncio


def own_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this thread. It runs while a test waits."""
    if not hasattr(_local, "loop"):
        _local.loop = event_loops().new_event_loop()
        # To standard error, not to pytest's log.
        _local.loop.set_exception_handler(lambda loop, context: traceback.print_exception(context["exception"]))
    return _local.loop


def wait_for(awaitable: Any) -> Any:
    loop = own_loop()
    if not loop.is_running():
        return loop.run_until_complete(awaitable)
    return _adapter.wait_for(_adapter.require_loop(), asyncio.ensure_future(awaitable, loop=loop))


class AsyncioTask(Task):
    greenlet = None

    def start(self) -> None:
        self.task = own_loop().create_task(psycogreen.asyncio.spawn(self.run))

    def run(self) -> None:
        self.greenlet = greenlet.getcurrent()
        super().run()

    def join(self, timeout: float | None = PATIENCE) -> None:
        if not self.task.done():
            wait_for(asyncio.wait({self.task}, timeout=timeout))
        assert self.task.done(), f"{self.task} did not end within {timeout} s"
        if not self.done:  # the task was cancelled before it ran
            self._exc = asyncio.CancelledError()

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        if exc is None or self.greenlet is None:
            self.task.cancel()
        else:
            own_loop().call_soon(self._throw, exc)

    def _throw(self, exc: BaseException | type[BaseException]) -> None:
        if not self.done:
            self.greenlet.throw(exc)


class Timeout(BaseException):
    """Like the Timeout of gevent and eventlet."""

    def __init__(self, seconds: float, thrown: BaseException | None = None) -> None:
        self._seconds, self._thrown = seconds, thrown or self

    def __enter__(self) -> Any:
        self._greenlet = greenlet.getcurrent()
        self._timer = own_loop().call_later(self._seconds, self._fire)
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        if not self._greenlet.dead:
            self._greenlet.throw(self._thrown)


class Asyncio(Hub):
    name = "asyncio"
    task_type = AsyncioTask
    Kill = asyncio.CancelledError
    Timeout = Timeout
    keeps_greenlets = True
    adapter = psycogreen.asyncio
    wait_callback = staticmethod(psycogreen.asyncio.asyncio_wait_callback)

    def sleep(self, seconds: float = 0) -> None:
        loop = own_loop()
        if not loop.is_running():
            loop.run_until_complete(asyncio.sleep(seconds))
            return
        wake = psycogreen.asyncio._Wake(_adapter.require_loop())
        timer = loop.call_later(seconds, wake) if seconds else loop.call_soon(wake)
        try:
            wake.wait()
        finally:
            timer.cancel()

    def current(self) -> Any:
        return getattr(_local, "loop", None)

    def make_current(self) -> Any:
        """Return the event loop of this thread; make one if there is none."""
        return own_loop()

    def end(self) -> None:
        if hasattr(_local, "loop"):
            _local.loop.run_until_complete(_local.loop.shutdown_default_executor())
            _local.loop.close()

    def watched(self) -> int:
        loop: Any = own_loop()
        if not hasattr(loop, "_selector"):
            return 0  # uvloop has no such number
        return len(loop._selector.get_map()) + sum(not timer.cancelled() for timer in loop._scheduled)

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        own_loop().call_soon(fn, *args)

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        _adapter.require_loop()
        if not isinstance(fd, int) or fd < 0 or fd >= 1 << 20:
            return _adapter.wait_read(fd, timeout)
        loop = own_loop()
        readable = loop.create_future()
        loop.add_reader(fd, lambda: readable.done() or readable.set_result(None))
        try:
            wait_for(asyncio.wait_for(readable, timeout))
        finally:
            loop.remove_reader(fd)

    def program(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.run(fn, *args, timeout=None)

    def run_in_threads(self, count: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        def run() -> Any:
            try:
                return fn(*args)
            finally:
                self.end()

        return super().run_in_threads(count, run)


make = Asyncio
