"""The hub of this run, with the library's name hidden."""

import functools
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet
import pytest
from clock import clock

NAME = os.environ.get("PSYCOGREEN_TEST_HUB", "gevent")

# The environment variable that chooses another loop of the hub's.
LOOP_VARIABLE = {"gevent": "GEVENT_LOOP", "eventlet": "EVENTLET_HUB", "asyncio": "PSYCOGREEN_TEST_LOOP"}

# Longer than anything that works may take; a hang in the hub then fails one
# test. pytest-timeout's limit is for hangs that the hub can't end.
PATIENCE = 30


class Outcome:
    """What became of a function: no hub gets to report or swallow it.

    gevent would turn GreenletExit into a result, KeyboardInterrupt would end
    the test run.
    """

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._fn, self._args = fn, args
        self.done = False
        self._result: Any = None
        self._exc: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._fn(*self._args)
        except BaseException as exc:
            self._exc = exc
        finally:
            self.done = True
            del self._fn, self._args

    def get(self) -> Any:
        """Return the function's result or raise its exception, once."""
        exc, self._exc = self._exc, None
        if exc is not None:
            try:
                raise exc
            finally:
                del exc  # its traceback holds this frame
        return self._result


class Task(Outcome):
    """A function that runs in a greenlet of its own."""

    greenlet: Any

    def wait(self, timeout: float | None = PATIENCE) -> Any:
        """Wait until the function ends; return its result or raise its exception.

        Raises:
            AssertionError: It did not end within *timeout* seconds.
        """
        self.join(timeout)
        return self.get()

    def join(self, timeout: float | None = PATIENCE) -> None:
        """Wait until the function ends, whichever way."""
        raise NotImplementedError

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        """Throw *exc* (GreenletExit) into the greenlet, which may not wait for it."""
        raise NotImplementedError


def wait_until(
    condition: Callable[[], Any], timeout: float = PATIENCE, pause: Callable[[], Any] = lambda: time.sleep(0.01)
) -> Any:
    """Wait until *condition* holds, with a *pause* between two looks; return what it returned.

    Raises:
        AssertionError: It did not hold within *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while not (held := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {timeout} s"
        pause()
    return held


class Hub:
    """What the tests need of a coroutine library."""

    name: str
    #: The exception by which the library kills.
    Kill: type[BaseException] = greenlet.GreenletExit
    #: The library's Timeout class.
    Timeout: Any
    #: The adapter: psycogreen.gevent, for one.
    adapter: Any
    #: The adapter's wait callback.
    wait_callback: Callable[..., None]

    def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
        """Start *fn* in a new greenlet; it runs when the caller waits."""
        raise NotImplementedError

    def sleep(self, seconds: float = 0) -> None:
        """Let others run for that long."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the hub of this thread or None; never make one."""
        raise NotImplementedError

    def watched(self) -> int:
        """Return how many watchers, listeners and timers the hub holds."""
        raise NotImplementedError

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        """Have the hub call *fn* in its own greenlet."""
        raise NotImplementedError

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        """Call the library's own wait function, as a user would."""
        raise NotImplementedError

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = PATIENCE) -> Any:
        """Run *fn* in a greenlet; return its result or raise its exception."""
        return self.spawn(fn, *args).wait(timeout)

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Let others run until *condition* holds; return what it returned.

        Raises:
            AssertionError: It did not hold within *timeout* seconds.
        """
        return wait_until(condition, timeout, lambda: self.sleep(0.002))

    def end(self) -> None:
        """Leave nothing open in this thread."""

    def program(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn*, from where none of this runs yet, so that it can wait as the main greenlet can."""
        return fn(*args)

    def run_in_hub(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in the hub's own greenlet; return its result or raise its exception."""
        outcome = Outcome(fn, *args)
        self.call_soon(outcome.run)
        self.wait_until(lambda: outcome.done)
        return outcome.get()

    def switch(self, task: Task, value: object = None) -> None:
        """Have the hub switch into *task*'s greenlet out of turn, as a stray wake-up would."""
        self.call_soon(task.greenlet.switch, value)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in a native thread that has no hub, while this hub runs on."""
        outcome = Outcome(fn, *args)
        thread = threading.Thread(target=outcome.run, daemon=True)
        thread.start()
        self.wait_until(lambda: not thread.is_alive())
        thread.join()
        return outcome.get()

    @contextmanager
    def ticker(self, interval: float = 0.01) -> "Iterator[Ticker]":
        """Count how often the hub runs another greenlet meanwhile."""
        ticker = Ticker()
        task = self.spawn(ticker.run, self.sleep, interval)
        self.sleep(0)
        try:
            yield ticker
        finally:
            ticker.stop()
            task.join()


class Ticker:
    """A greenlet that only sleeps and wakes: who stops the hub stops it."""

    def __init__(self) -> None:
        #: How often it woke.
        self.ticks = 0
        #: The longest time between two ticks, in seconds of `clock`.
        self.longest_gap = 0.0
        self._last = clock()
        self._running = True

    def run(self, sleep: Callable[[float], None], interval: float) -> None:
        self._last = clock()
        while True:
            sleep(interval)
            if not self._running:
                break
            self._note()
            self.ticks += 1

    def stop(self) -> None:
        # A hub that stood still until now had no chance to tick.
        self._note()
        self._running = False

    def _note(self) -> None:
        now = clock()
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now


def gevent_hub() -> Hub:
    import gc

    import gevent
    import gevent.hub
    from gevent._hub_local import get_hub_if_exists

    import psycogreen.gevent

    class GeventTask(Task):
        def join(self, timeout: float | None = PATIENCE) -> None:
            self.greenlet.join(timeout)
            assert self.greenlet.dead, f"{self.greenlet} did not end within {timeout} s"
            if not self.done:  # killed before it ran
                self._exc = self.greenlet.exception or self.greenlet.value

        def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
            self.greenlet.kill(gevent.GreenletExit if exc is None else exc, block=False)

    # libuv refuses a descriptor that is no pipe, socket or terminal.
    reading, writing = os.pipe()
    loop = gevent.get_hub().loop
    samples = [loop.io(reading, 1), loop.timer(1)]
    kinds = tuple(type(sample) for sample in samples)
    for sample in samples:
        sample.close()
    os.close(reading)
    os.close(writing)

    class Gevent(Hub):
        name = "gevent"
        Timeout = gevent.Timeout
        adapter = psycogreen.gevent
        wait_callback = staticmethod(psycogreen.gevent.gevent_wait_callback)
        sleep = staticmethod(gevent.sleep)
        current = staticmethod(get_hub_if_exists)

        def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
            task = GeventTask(fn, *args)
            task.greenlet = gevent.spawn(task.run)
            return task

        def watched(self) -> int:
            # The loop has no list of its watchers.
            gc.collect()  # an earlier test's
            return sum(isinstance(found, kinds) and found.active for found in gc.get_objects())

        def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
            gevent.get_hub().loop.run_callback(fn, *args)

        def wait_readable(self, fd: int, timeout: float | None = None) -> None:
            import gevent.socket

            gevent.socket.wait_read(fd, timeout)

    return Gevent()


def eventlet_hub() -> Hub:
    import eventlet
    import eventlet.hubs

    import psycogreen.eventlet

    class EventletTask(Task):
        def join(self, timeout: float | None = PATIENCE) -> None:
            limit = eventlet.Timeout(timeout)
            try:
                self.greenlet.wait()
            except BaseException as exc:
                if exc is limit:
                    raise AssertionError(f"{self.greenlet} did not end within {timeout} s") from None
                if self.done:
                    raise
                self._exc = exc  # killed before it ran
            finally:
                limit.cancel()

        def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
            if exc is None:
                self.greenlet.kill()
                return
            exc = exc() if isinstance(exc, type) else exc
            # All three: with fewer it fails on a greenlet that has not run yet.
            self.greenlet.kill(type(exc), exc, None)

    class Eventlet(Hub):
        name = "eventlet"
        Timeout = eventlet.Timeout
        adapter = psycogreen.eventlet
        wait_callback = staticmethod(psycogreen.eventlet.eventlet_wait_callback)
        sleep = staticmethod(eventlet.sleep)

        def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
            task = EventletTask(fn, *args)
            task.greenlet = eventlet.spawn(task.run)
            return task

        def current(self) -> Any:
            return getattr(eventlet.hubs._threadlocal, "hub", None)

        def watched(self) -> int:
            hub = eventlet.hubs.get_hub()
            return len(hub.get_readers()) + len(hub.get_writers()) + hub.get_timers_count() - hub.timers_canceled

        def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
            eventlet.hubs.get_hub().schedule_call_global(0, fn, *args)

        def wait_readable(self, fd: int, timeout: float | None = None) -> None:
            eventlet.hubs.trampoline(fd, read=True, timeout=timeout)

    return Eventlet()


def asyncio_hub() -> Hub:
    import asyncio
    import traceback

    import psycogreen.asyncio

    adapter = psycogreen.asyncio._adapter
    local = threading.local()

    def own_loop() -> asyncio.AbstractEventLoop:
        """Return the loop of this thread, which runs while somebody waits."""
        if not hasattr(local, "loop"):
            local.loop = event_loops().new_event_loop()
            # Not into pytest's log.
            local.loop.set_exception_handler(lambda loop, context: traceback.print_exception(context["exception"]))
        return local.loop

    def wait_for(awaitable: Any) -> Any:
        loop = own_loop()
        if not loop.is_running():
            return loop.run_until_complete(awaitable)
        return adapter.wait_for(adapter.require_loop(), asyncio.ensure_future(awaitable, loop=loop))

    class AsyncioTask(Task):
        greenlet = None

        def run(self) -> None:
            self.greenlet = greenlet.getcurrent()
            super().run()

        def join(self, timeout: float | None = PATIENCE) -> None:
            if not self.task.done():
                wait_for(asyncio.wait({self.task}, timeout=timeout))
            assert self.task.done(), f"{self.task} did not end within {timeout} s"
            if not self.done:  # cancelled before it ran
                self._exc = asyncio.CancelledError()

        def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
            if exc is None or self.greenlet is None:
                self.task.cancel()
            else:
                own_loop().call_soon(self.greenlet.interrupt, exc() if isinstance(exc, type) else exc)

    class Timeout(BaseException):
        """As gevent's and eventlet's."""

        def __init__(self, seconds: float, thrown: BaseException | None = None) -> None:
            self._seconds, self._thrown = seconds, thrown or self

        def __enter__(self) -> Any:
            self._greenlet = greenlet.getcurrent()
            self._timer = own_loop().call_later(self._seconds, self._strike)
            return self

        def __exit__(self, *exc: object) -> None:
            self._timer.cancel()

        def _strike(self) -> None:
            if not self._greenlet.dead:
                self._greenlet.throw(self._thrown)

    class Asyncio(Hub):
        name = "asyncio"
        Kill = asyncio.CancelledError
        adapter = psycogreen.asyncio
        wait_callback = staticmethod(psycogreen.asyncio.asyncio_wait_callback)

        def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
            task = AsyncioTask(fn, *args)
            task.task = own_loop().create_task(psycogreen.asyncio.spawn(task.run))
            return task

        def sleep(self, seconds: float = 0) -> None:
            loop = own_loop()
            if not loop.is_running():
                loop.run_until_complete(asyncio.sleep(seconds))
                return
            wake = psycogreen.asyncio._Wake(adapter.require_loop())
            timer = loop.call_later(seconds, wake) if seconds else loop.call_soon(wake)
            try:
                wake.wait()
            finally:
                timer.cancel()

        def current(self) -> Any:
            return getattr(local, "loop", None)

        def make_current(self) -> Any:
            """Return the loop of this thread, a new one if there was none."""
            return own_loop()

        def end(self) -> None:
            if hasattr(local, "loop"):
                local.loop.run_until_complete(local.loop.shutdown_default_executor())
                local.loop.close()

        def watched(self) -> int:
            loop: Any = own_loop()
            if not hasattr(loop, "_selector"):
                return 0  # uvloop does not tell
            return len(loop._selector.get_map()) + sum(not timer.cancelled() for timer in loop._scheduled)

        def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
            own_loop().call_soon(fn, *args)

        def wait_readable(self, fd: int, timeout: float | None = None) -> None:
            adapter.require_loop()
            if not isinstance(fd, int) or fd < 0 or fd >= 1 << 20:
                return adapter.wait_read(fd, timeout)  # whose errors are its own
            loop = own_loop()
            readable = loop.create_future()
            loop.add_reader(fd, lambda: readable.done() or readable.set_result(None))
            try:
                wait_for(asyncio.wait_for(readable, timeout))
            finally:
                loop.remove_reader(fd)

        def program(self, fn: Callable[..., Any], *args: Any) -> Any:
            return self.run(fn, *args, timeout=None)

        def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
            def run() -> Any:
                try:
                    return fn(*args)
                finally:
                    self.end()

            return super().run_in_thread(run)

    asyncio_hub = Asyncio()
    asyncio_hub.Timeout = Timeout
    return asyncio_hub


@functools.cache
def make_hub() -> Hub:
    return {"gevent": gevent_hub, "eventlet": eventlet_hub, "asyncio": asyncio_hub}[NAME]()


def event_loops() -> Any:
    """Return the module of this run's event loops, which has new_event_loop() and run()."""
    if os.environ.get(LOOP_VARIABLE["asyncio"]) == "uvloop":
        import uvloop

        return uvloop
    import asyncio

    return asyncio


if NAME == "asyncio":

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(pyfuncitem: Any) -> Iterator[None]:
        """Run the test in a greenlet of the running loop: it waits as if it was the main greenlet of other hubs.

        One that is a coroutine has a loop of its own.
        """
        test = pyfuncitem.obj
        if inspect.iscoroutinefunction(test):
            pyfuncitem.obj = lambda **kwargs: event_loops().run(test(**kwargs))
        else:
            pyfuncitem.obj = lambda **kwargs: make_hub().program(functools.partial(test, **kwargs))
        try:
            return (yield)
        finally:
            pyfuncitem.obj = test


def pytest_report_header() -> str:
    import psycogreen

    selector = os.environ.get(LOOP_VARIABLE[NAME], "default")
    return f"psycogreen: {psycogreen.implementation} loop on {NAME} ({selector})"


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The hub that PSYCOGREEN_TEST_HUB names."""
    hub = make_hub()
    yield hub
    hub.end()
