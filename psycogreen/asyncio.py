"""psycopg2 on asyncio.

asyncio has no greenlets. `spawn` brings them: it runs blocking-style code in
one, which waits by switching to the greenlet that runs the event loop, and is
switched to from the loop's callbacks. SQLAlchemy's own greenlets serve too.
"""

import _socket
import _thread
import asyncio
import contextlib
import contextvars
import functools
import os
import select
import sys
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

try:
    from greenlet import GreenletExit, getcurrent, greenlet
    from greenlet import error as GreenletError
except ImportError as exc:
    raise ImportError("psycogreen.asyncio needs greenlet: pip install psycogreen[asyncio]") from exc

from psycogreen._implementation import wait_callback
from psycogreen._psycopg2.activate import register
from psycogreen._waiting import POLL_READ, POLL_READWRITE, POLL_WRITE

__all__ = ["asyncio_wait_callback", "make_psycopg_green", "patch_psycopg", "spawn"]

P = ParamSpec("P")
T = TypeVar("T")


class _LoopState:
    """An event loop, and what waits on it. It hangs on the loop, and goes with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        here = getcurrent()
        # The greenlet in which the loop runs.
        self.greenlet = here.parent if _is_sqlalchemys(here) else here
        # What spawn() started and has not ended, what waits in SQLAlchemy's
        # greenlets, and whoever waits through _Wake.
        self.spawned: set[_Greenlet] = set()
        self.wakeups: dict[greenlet, _TaskWakeup] = {}
        self.waiting: set[greenlet] = set()
        # What the loop may still watch, though the wait for it has ended.
        self.ended: set[_Descriptor] = set()
        # Those of the compiled loop.
        self.reactors: dict[Any, Any] = {}
        self._pid = os.getpid()
        # asyncio tells nobody that a loop is closed.
        self._close_loop = loop.close
        loop.close = self._close  # type: ignore[method-assign]

    def adopt_greenlet(self) -> Any:
        """Return the running greenlet, after it has become the one in which the loop runs."""
        here = getcurrent()
        if here is not self.greenlet:
            self.greenlet = here
            for spawned in self.spawned:
                with contextlib.suppress(ValueError):  # left behind in another thread
                    spawned.parent = here
        return here

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Call *fn*; the loop calls this."""
        self.adopt_greenlet()
        fn(*args)

    def can_throw_into(self, waiter: greenlet) -> bool:
        """Return whether the greenlet *waiter*, which is not running, waits for something of psycogreen's."""
        return not _is_sqlalchemys(waiter) or waiter in self.wakeups

    def may_wait(self) -> bool:
        """Tell whether the running greenlet may wait: not the one that runs the loop."""
        ancestor = here = getcurrent()
        if _is_sqlalchemys(here):
            return True
        while ancestor is not None:
            if isinstance(ancestor, _Greenlet):
                return True
            ancestor = ancestor.parent
        # A greenlet of somebody else's may wait if a callback of the loop
        # started it: a callback's result is of interest to nobody.
        return here is not self.greenlet and asyncio.current_task(self.loop) is None

    def check_may_wait(self) -> None:
        """Refuse to wait in what is no greenlet that can.

        Raises:
            RuntimeError: It is the one that runs the loop.
        """
        if not self.may_wait():
            raise RuntimeError(
                "psycopg2 would stop the event loop here: "
                "have what calls it run by `await psycogreen.asyncio.spawn(function, ...)`"
            )

    def _close(self) -> None:
        # After a fork they are the parent's; at the interpreter's end they can't run.
        if not (self.loop.is_running() or os.getpid() != self._pid or sys.is_finalizing()):
            self._end()
            for descriptor in list(self.ended):
                descriptor.close()
        self._close_loop()

    def _end(self) -> None:
        """End all greenlets, as nothing will wake them."""
        self.adopt_greenlet()
        for wakeup in list(self.wakeups.values()):
            wakeup.abandon(self)
        for spawned in list(self.spawned):
            self._end_one(spawned)
        cancel: Any = sys.modules.get("psycogreen._psycopg2.cancel")
        if cancel is not None:
            cancel.finish_left_to(self)
        for waiting in list(self.waiting):
            self._end_one(waiting)

    def _end_one(self, waiter: greenlet) -> None:
        exc = asyncio.CancelledError("the event loop is closed")
        try:
            waiter.parent = self.greenlet
            waiter.throw(exc)
        except (GreenletError, ValueError):
            pass  # left behind in another thread
        except BaseException as died:
            if died is not exc:
                _adapter.handle_error(self, died)


class _Greenlet(greenlet):  # type: ignore[misc]
    """What spawn() runs a function in. It keeps the outcome."""

    def __init__(self, loop_state: _LoopState, fn: Callable[[], Any]) -> None:
        super().__init__()
        self._loop_state = loop_state
        self._fn: Callable[[], Any] | None = fn
        self._exception: BaseException | None = None
        self._result: Any = None
        #: Is done when the function ends; made where that is not at once.
        self.ended: asyncio.Future[None] | None = None
        # Changes of context variables are seen by both.
        self.gr_context = getcurrent().gr_context

    def start(self) -> None:
        """Begin, in the greenlet that runs the loop."""
        self.parent = self._loop_state.greenlet
        self.switch()

    def run(self) -> None:
        self._loop_state.spawned.add(self)
        try:
            assert self._fn is not None
            self._result = self._fn()
        except BaseException as exc:
            self._exception = exc
        self._fn = None
        self._loop_state.spawned.discard(self)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def interrupt(self, exc: BaseException) -> None:
        """Throw *exc* where the function waits; it goes on until it waits again or ends."""
        loop_state = self._loop_state
        here = getcurrent()
        if here is not loop_state.greenlet:
            if loop_state.loop.is_running():
                loop_state.loop.call_soon_threadsafe(loop_state.call, self.interrupt, exc)
                return
            self.parent = here
        if not self.dead:
            self.throw(exc)

    def outcome(self) -> Any:
        """Return the function's result or raise its exception, once."""
        exc, self._exception = self._exception, None
        if exc is None:
            return self._result
        try:
            raise exc
        finally:
            del exc  # its traceback holds this frame


def _is_sqlalchemys(waiter: Any) -> bool:
    # The mark by which SQLAlchemy's await_only() knows its own.
    return getattr(waiter, "__sqlalchemy_greenlet_provider__", False)


class _Wake:
    """Wakes the greenlet that made it, while that waits; the loop calls it."""

    def __init__(self, loop_state: _LoopState) -> None:
        self._loop_state = loop_state
        self._greenlet = getcurrent()

    def wait(self) -> None:
        """Wait until it is called."""
        loop_state, me = self._loop_state, self._greenlet
        loop_state.waiting.add(me)
        try:
            result = _switch(loop_state)
        finally:
            loop_state.waiting.discard(me)
            self._greenlet = None
        if result is not self:
            _adapter.stray_switch(loop_state, result)

    def __call__(self, done: Any = None) -> None:
        self._loop_state.adopt_greenlet()
        if self._greenlet is not None:
            self._greenlet.switch(self)

    def throw(self, exc: BaseException) -> None:
        self._loop_state.adopt_greenlet()
        if self._greenlet is not None:
            self._greenlet.throw(exc)


class _Descriptor:
    """A descriptor that the loop watches, for one wait.

    Under a number of its own: the loop has one reader for each, and that one may
    be the user's, who listens for notifications.

    The loop is told of it in its own greenlet. uvloop's libuv keeps a pointer
    to its C stack while it calls back, and follows it when it is told something:
    in another greenlet that stack is somebody else's.
    """

    def __init__(self, loop_state: _LoopState, fd: int, state: int, wake: _Wake) -> None:
        self._loop_state = loop_state
        self._state = state
        self._wake = wake
        self._fd = os.dup(fd)
        loop_state.loop.call_soon(self._watch)

    def _watch(self) -> None:
        if self in self._loop_state.ended:
            return
        try:
            if self._state != POLL_WRITE:
                self._loop_state.loop.add_reader(self._fd, self._wake)
            if self._state != POLL_READ:
                self._loop_state.loop.add_writer(self._fd, self._wake)
        except Exception as exc:
            self._wake.throw(exc)

    def end(self) -> None:
        """End the watch, as soon as the loop can."""
        self._loop_state.ended.add(self)
        if self._loop_state.loop.is_closed():
            self.close()
        else:
            self._loop_state.loop.call_soon(self.close)

    def close(self) -> None:
        """End the watch at once."""
        if self not in self._loop_state.ended:
            return
        if not self._loop_state.loop.is_closed():
            self._loop_state.loop.remove_reader(self._fd)
            self._loop_state.loop.remove_writer(self._fd)
        os.close(self._fd)
        self._loop_state.ended.discard(self)


class _Asyncio:
    """What the wait loop needs of asyncio."""

    #: The greenlets that may switch to the loop without more ado.
    greenlet_type = _Greenlet

    def current(self) -> _LoopState | None:
        loop: Any = asyncio._get_running_loop()
        if loop is None:
            return None
        try:
            loop_state: _LoopState = loop._psycogreen
        except AttributeError:
            loop_state = loop._psycogreen = _LoopState(loop)
        return loop_state

    def require_loop(self) -> _LoopState:
        """Return the running loop, of which the running greenlet may wait for something."""
        loop_state = self.current()
        assert loop_state is not None
        loop_state.check_may_wait()
        return loop_state

    def wait_read(self, fd: int, timeout: float | None) -> None:
        self.wait(fd, POLL_READ, timeout)

    def wait_write(self, fd: int, timeout: float | None) -> None:
        self.wait(fd, POLL_WRITE, timeout)

    def wait_readwrite(self, fd: int, timeout: float | None) -> None:
        self.wait(fd, POLL_READWRITE, timeout)

    def timeout_seconds(self, timeout: float | None) -> float | None:
        return timeout

    def poll(self) -> Any:
        return select.poll()

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        loop_state = self.require_loop()
        wake = _Wake(loop_state)
        timer = None
        descriptor = _Descriptor(loop_state, fd, state, wake)
        try:
            if seconds is not None:
                timer = loop_state.loop.call_later(seconds, wake.throw, TimeoutError("timed out"))
            wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            descriptor.end()

    def wait_for(self, loop_state: _LoopState, future: "asyncio.Future[T]") -> T:
        """Park until *future* is done; return or raise what it has."""
        wake = _Wake(loop_state)
        future.add_done_callback(wake)
        try:
            wake.wait()
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def timeout(self, seconds: float) -> Any:
        return _Timeout(self.require_loop(), seconds)

    def getaddrinfo(self, host: str) -> list[Any]:
        loop_state = self.require_loop()
        lookup = loop_state.loop.create_task(loop_state.loop.getaddrinfo(host, None, type=_socket.SOCK_STREAM))
        return self.wait_for(loop_state, lookup)

    def call_soon(self, loop_state: _LoopState, fn: Callable[..., object], *args: Any) -> None:
        loop_state.loop.call_soon_threadsafe(loop_state.call, fn, *args)

    def wait_for_ever(self) -> None:
        _Wake(self.require_loop()).wait()

    def pause(self) -> None:
        loop_state = self.require_loop()
        wake = _Wake(loop_state)
        loop_state.loop.call_soon(wake)
        wake.wait()

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        _thread.start_new_thread(fn, args)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        loop_state = self.require_loop()
        return self.wait_for(loop_state, loop_state.loop.run_in_executor(None, fn, *args))

    def greenlet(self, loop_state: _LoopState) -> Any:
        return loop_state.greenlet

    def may_wait(self, loop_state: _LoopState) -> bool:
        return loop_state.may_wait()

    def can_throw_into(self, loop_state: _LoopState, waiter: Any) -> bool:
        return loop_state.can_throw_into(waiter)

    def switch(self, loop_state: _LoopState) -> Any:
        loop_state.check_may_wait()
        return _switch(loop_state)

    def adopt_greenlet(self, loop_state: _LoopState) -> Any:
        return loop_state.adopt_greenlet()

    def watch(self, loop_state: _LoopState, fd: int, callback: Callable[..., object]) -> "_Watch":
        return _Watch(loop_state.loop, fd, callback)

    def handle_error(self, loop_state: _LoopState, exc: BaseException) -> None:
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            raise exc
        loop_state.loop.call_exception_handler({"message": "Unhandled exception in a greenlet", "exception": exc})

    def stray_switch(self, loop_state: _LoopState, result: object) -> None:
        raise RuntimeError(f"Invalid switch into a greenlet that waits for PostgreSQL: got {result!r}")


def _switch(loop_state: _LoopState) -> Any:
    """Switch to the loop; return what the running greenlet is switched back to with."""
    if _is_sqlalchemys(getcurrent()):
        return _switch_through_sqlalchemy(loop_state)
    return loop_state.greenlet.switch()


def _switch_through_sqlalchemy(loop_state: _LoopState) -> Any:
    """Switch to the loop from a greenlet of SQLAlchemy's, the parent of which awaits what it is switched to with.

    Only that parent, which runs in the task, may have the greenlet go on.
    Whoever else switches to it is switched back to at once, and the task told.
    """
    me = getcurrent()
    wakeup = _TaskWakeup(loop_state.loop)
    value: Any = wakeup
    exc: BaseException | None = None
    loop_state.wakeups[me] = wakeup
    try:
        while True:
            try:
                switched = me.parent.switch(value)
            except BaseException as thrown:
                exc = thrown
            else:
                if not wakeup.has_come:
                    result = switched
            if wakeup.has_come or not wakeup.is_awaited:
                break
            wakeup.call()
            value = None
        if exc is not None:
            raise exc
        return result
    finally:
        del loop_state.wakeups[me]
        del exc  # its traceback holds this frame


class _TaskWakeup:
    """The wakeup of a task: what it awaits until it is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._called = loop.create_future()
        self._task: Any = asyncio.current_task(loop)
        #: The task awaits it.
        self.is_awaited = False
        #: The task has gone on, be it that it was called or cancelled.
        self.has_come = False

    def __await__(self) -> Generator[Any, None, None]:
        self.is_awaited = True
        try:
            yield from self._called
        finally:
            self.has_come = True

    def call(self) -> None:
        if not self._called.done():
            self._called.set_result(None)

    def abandon(self, loop_state: _LoopState) -> None:
        """End the task's coroutine, as the collector would: but that might do so within another greenlet."""
        try:
            self._task.get_coro().close()
        except Exception as exc:
            loop_state.loop.call_exception_handler({"message": "Unhandled exception in a coroutine", "exception": exc})


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[..., object]) -> None:
        self._loop = loop
        self._fd = fd
        self._callback = callback
        self._stopped = False
        # In the loop's own greenlet: see _Descriptor. And in no context: the
        # loop would keep that of whoever happens to be the first.
        contextvars.Context().run(loop.call_soon, self._start)

    def _start(self) -> None:
        if not self._stopped:
            self._loop.add_reader(self._fd, self._callback)

    def set_ref(self, awaited: bool) -> None:
        pass  # a loop runs until it is told to stop

    def stop(self) -> None:
        self._stopped = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)


class _Timeout(BaseException):
    """Is thrown into the greenlet that is in its block when *seconds* have passed."""

    def __init__(self, loop_state: _LoopState, seconds: float) -> None:
        self._loop_state = loop_state
        self._seconds = seconds

    def __enter__(self) -> "_Timeout":
        self._greenlet = getcurrent()
        self._timer = self._loop_state.loop.call_later(self._seconds, self._loop_state.call, self._fire)
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        if self._loop_state.can_throw_into(self._greenlet):
            self._greenlet.throw(self)
        else:
            self._timer = self._loop_state.loop.call_later(0.01, self._loop_state.call, self._fire)


_adapter = _Asyncio()


async def spawn(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking-style code in a greenlet of the running loop.

    While it waits for PostgreSQL the loop runs on. Everything else must not
    block: it would block the loop. The code runs in the caller's context, so
    that each sees the context variables that the other sets. To cancel the
    task that awaits this throws the CancelledError into the code where it
    waits, which ends its query in the server and its connection. A
    cancellation wins over a result that is there but was not yet fetched.

    Args:
        fn: The function.
        args, kwargs: Its arguments.

    Returns:
        What *fn* returned.

    Raises:
        RuntimeError: No loop runs in this thread.
        BaseException: Whatever *fn* raised.
    """
    asyncio.get_running_loop()
    loop_state = _adapter.current()
    assert loop_state is not None
    spawned = _Greenlet(loop_state, functools.partial(fn, *args, **kwargs))
    start = None
    if getcurrent() is loop_state.greenlet:
        spawned.start()
    else:  # an eager task's first step, within another greenlet
        start = loop_state.loop.call_soon(loop_state.call, spawned.start)
    while not spawned.dead:
        spawned.ended = loop_state.loop.create_future()
        try:
            await spawned.ended
        except BaseException as exc:
            if start is not None:
                start.cancel()
            if spawned.dead or not spawned:
                raise
            if isinstance(exc, GeneratorExit):  # close(): nobody waits any more
                spawned.interrupt(GreenletExit())
                raise
            spawned.interrupt(exc)
    result: T = spawned.outcome()
    return result


@wait_callback(_adapter)
def asyncio_wait_callback(conn: Any, timeout: float | None = None) -> None:
    """Wait until psycopg2's connection *conn* is done; let the event loop run.

    psycopg2 calls it: see "Support for coroutine libraries" in its
    documentation. In a thread in which no loop runs, it waits alone.

    Args:
        conn: The connection that waits.
        timeout: Seconds that each single wait for the server may take, None
            for no limit. Use it through ``functools.partial``.

    Raises:
        RuntimeError: There is no greenlet here that could wait: see `spawn`.
        TimeoutError: A wait took longer than *timeout*.
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(connections: bool = True, cancel: bool = True) -> None:
    """Make psycopg2 cooperate with asyncio, for the whole process.

    Whatever then calls psycopg2 in a thread that runs an event loop is to be
    run by `spawn`. Undo it with
    ``psycopg2.extensions.set_wait_callback(None)``.

    Args:
        connections: Have ``psycopg2.connect()`` hand out connections that no
            call on them can make stop the loop, and whose queries end in the
            server too when their task is cancelled. False registers the wait
            callback alone.
        cancel: Have the server cancel the query of such a connection when an
            exception ends the wait for it.

    Raises:
        ImportError: psycopg2 is not installed or has no wait callbacks.
    """
    register(asyncio_wait_callback, _adapter, connections, cancel)


patch_psycopg = make_psycopg_green
