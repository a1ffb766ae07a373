"""psycopg2 on asyncio.

asyncio has no greenlets, so `spawn` brings them: it runs blocking-style code in a
greenlet. To wait, that greenlet switches to the greenlet that runs the event loop,
and a callback of the event loop switches back. SQLAlchemy's own greenlets can wait
in the same way.
"""

import _socket
import _thread
import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import select
import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any, ParamSpec, TypeVar

try:
    from greenlet import GreenletExit, getcurrent, greenlet
    from greenlet import error as GreenletError
except ImportError as exc:
    raise ImportError("psycogreen.asyncio needs greenlet: pip install psycogreen[asyncio]") from exc

from psycogreen._drivers import make_green
from psycogreen._implementation import start_greenlet, wait_callback
from psycogreen._waiting import LOOK_AGAIN, POLL_READ, POLL_READWRITE, POLL_WRITE, is_ready

__all__ = ["asyncio_wait_callback", "make_psycopg_green", "patch_psycopg", "spawn"]

if os.name == "nt":
    # There an event loop can watch sockets only, or none, and no duplicates of them.
    raise ImportError("psycogreen.asyncio does not work on Windows. Use psycogreen.gevent")

P = ParamSpec("P")
T = TypeVar("T")


class _LoopState:
    """An event loop and the greenlets that wait on it. An attribute of the event loop holds this object."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        loop._psycogreen = self  # type: ignore[attr-defined]
        here = getcurrent()
        # The greenlet in which the event loop runs.
        self.greenlet = here.parent if _is_sqlalchemys(here) else here
        # The greenlets of spawn(), and those of them that have nothing to do.
        self.workers: set[_Worker] = set()
        self.idle: list[_Worker] = []
        # The jobs that have ended in the callback under way, whose tasks go on at its end.
        self.ended_jobs: list[_Job] | None = None
        # The waiting greenlets of SQLAlchemy's.
        self.wakeups: dict[greenlet, _TaskWakeup] = {}
        # The greenlets that wait through a _Wake.
        self.waiting: set[greenlet] = set()
        # Descriptors whose wait has ended, but which the event loop may still watch.
        self.ended: set[_Descriptor] = set()
        # The compiled loop keeps the reactors of this event loop here, by adapter.
        self.reactors: dict[Any, Any] = {}
        self._pid = os.getpid()
        # asyncio has no hook for the close of an event loop.
        self._close_loop = loop.close
        loop.close = self._close  # type: ignore[method-assign]

    def adopt_greenlet(self) -> Any:
        """Take the running greenlet for the one in which the event loop runs, and return it."""
        here = getcurrent()
        if here is not self.greenlet:
            self.greenlet = here
            for worker in self.workers:
                try:
                    worker.parent = here
                except ValueError:  # *worker* belongs to another thread
                    self.idle.clear()
        return here

    def call(self, fn: Callable[..., object], *args: Any) -> None:
        """Call *fn*, from a callback of the event loop."""
        self.adopt_greenlet()
        fn(*args)

    def wake_tasks(self) -> bool:
        """Make the tasks that await jobs of `ended_jobs` go on now; return whether there are any.

        Call this in a callback of the event loop.
        """
        jobs = self.ended_jobs
        if not jobs:
            return False
        self.ended_jobs = None  # what ends from here on would wait for these tasks
        jobs.reverse()
        try:
            while jobs:
                jobs[-1].wake()
                jobs.pop()
        finally:
            for job in reversed(jobs):  # after KeyboardInterrupt or SystemExit, which end the event loop
                self.loop.call_soon(job.wake)
            self.ended_jobs = []
        return True

    def can_throw_into(self, waiter: greenlet) -> bool:
        """Return whether the greenlet *waiter*, which is not running, waits in psycogreen."""
        return not _is_sqlalchemys(waiter) or waiter in self.wakeups

    def may_wait(self) -> bool:
        """Return whether the running greenlet may wait. The one that runs the event loop may not."""
        ancestor = here = getcurrent()
        if _is_sqlalchemys(here):
            return True
        while ancestor is not None:
            if isinstance(ancestor, _Worker):
                return True
            ancestor = ancestor.parent
        # Any other greenlet may wait only if a callback of the event loop started it.
        # When it parks, the switch() that started it returns early. A callback has
        # nothing more to do then. A task's code would go on without the greenlet's result.
        return here is not self.greenlet and asyncio.current_task(self.loop) is None

    def check_may_wait(self) -> None:
        """Refuse to wait where the running greenlet may not wait.

        Raises:
            RuntimeError: A wait here would stop the event loop.
        """
        if not self.may_wait():
            raise RuntimeError(
                "psycopg2 would stop the event loop here: "
                "run the code that calls psycopg2 by `await psycogreen.asyncio.spawn(function, ...)`"
            )

    def _close(self) -> None:
        # After a fork the greenlets are the parent's. While the interpreter finalizes they can't run.
        if not (self.loop.is_running() or os.getpid() != self._pid or sys.is_finalizing()):
            self._end()
            for descriptor in list(self.ended):
                descriptor.close()
        self._close_loop()

    def _end(self) -> None:
        """End all greenlets, because nothing will wake them."""
        self.adopt_greenlet()
        for wakeup in list(self.wakeups.values()):
            wakeup.abandon(self)
        for worker in list(self.workers):
            if worker.job is not None:
                self._end_one(worker)
        for worker in self.idle:
            # Suspended, it refers to itself, and the collector does not see that. It has no job, so it ends.
            with contextlib.suppress(GreenletError, ValueError):  # it belongs to another thread
                worker.parent = self.greenlet
                worker.switch()
        self.workers.clear()
        self.idle.clear()
        cancel: Any = sys.modules.get("psycogreen._cancel")
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
            pass  # *waiter* belongs to another thread
        except BaseException as died:
            if died is not exc:
                _adapter.handle_error(self, died)


class _Worker(greenlet):  # type: ignore[misc]
    """A greenlet in which spawn() runs functions, one after the other.

    A new greenlet for each function would take longer than most queries.
    """

    job: "_Job | None" = None

    def run(self) -> None:
        while (job := self.job) is not None:
            job.run()
            self.job = None
            self.gr_context: contextvars.Context | None = None  # the caller's may hold much
            idle = job.loop_state.idle
            if len(idle) == _MOST_IDLE:
                job.loop_state.workers.discard(self)
                return
            idle.append(self)
            del job, idle  # an idle worker must not keep the event loop
            self.parent.switch()


# Workers that an event loop keeps for later jobs.
_MOST_IDLE = 100


class _Job:
    """A function that runs in a worker. It keeps the function's result or exception.

    It is also what the task of spawn() awaits, in the place of an asyncio.Future. A
    future would wake the task in the event loop's next turn, and a turn costs more
    than a query.
    """

    #: Whether the function has ended.
    done = False
    #: The greenlet in which the function runs; None before and after.
    worker: _Worker | None = None

    _result: Any = None
    _exception: BaseException | None = None
    # What the task wants to be called when this is done, and in which context.
    _wakeup: "tuple[Callable[[_Job], object], contextvars.Context] | None" = None
    # The arguments of the CancelledError that the task gets instead; None for no such error.
    _cancelled: tuple[Any, ...] | None = None
    # A task awaits only what has this attribute. It becomes True when a task is about to await it.
    _asyncio_future_blocking = False

    def __init__(self, loop_state: _LoopState, fn: Callable[[], Any]) -> None:
        self.loop_state = loop_state
        self._fn: Callable[[], Any] | None = fn

    def start(self, context: contextvars.Context | None) -> None:
        """Run the function in *context* until it waits. Call this in the greenlet that runs the event loop."""
        loop_state = self.loop_state
        worker = loop_state.idle.pop() if loop_state.idle else _Worker()
        if worker.dead:  # somebody threw an exception into it
            loop_state.workers.discard(worker)
            worker = _Worker()
        is_new = not worker
        if is_new:
            worker.parent = loop_state.greenlet
            loop_state.workers.add(worker)
        # The function and its caller see each other's changes of context variables.
        worker.gr_context = context
        worker.job = self
        self.worker = worker
        if is_new:
            start_greenlet(worker)
        else:
            worker.switch()

    def run(self) -> None:
        try:
            self._result = self._fn()  # type: ignore[misc]
        except BaseException as exc:
            self._exception = exc
        self._fn = self.worker = None
        self.done = True
        if self._wakeup is not None:
            if self.loop_state.ended_jobs is not None:
                self.loop_state.ended_jobs.append(self)
            else:
                self.loop_state.loop.call_soon(self.wake)

    def interrupt(self, exc: BaseException) -> None:
        """Throw *exc* into the function where it waits. The function then runs until it waits again or ends."""
        loop_state = self.loop_state
        here = getcurrent()
        if here is not loop_state.greenlet:
            if loop_state.loop.is_running():
                loop_state.loop.call_soon_threadsafe(loop_state.call, self.interrupt, exc)
                return
            if self.worker is not None:
                try:
                    self.worker.parent = here
                except ValueError:  # another thread's: the event loop's next run throws *exc*
                    loop_state.loop.call_soon_threadsafe(loop_state.call, self.interrupt, exc)
                    return
        if self.worker is not None:
            self.worker.throw(exc)

    def outcome(self) -> Any:
        """Return the function's result or raise its exception, once."""
        exc, self._exception = self._exception, None
        if exc is None:
            return self._result
        try:
            raise exc
        finally:
            del exc  # its traceback holds this frame

    # What a task requires of the thing that it awaits, as asyncio.Future has it.

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        return iter((self,))  # type: ignore[return-value]

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop_state.loop

    def add_done_callback(self, callback: "Callable[[_Job], object]", *, context: contextvars.Context) -> None:
        self._wakeup = callback, context

    def cancel(self, msg: Any = None) -> bool:
        """Make the task go on with a CancelledError."""
        if self.done or self._cancelled is not None:
            if self._wakeup is not None:
                # A signal handler may have raised an exception where the task should have been woken.
                self.loop_state.loop.call_soon(self.wake)
            return False
        self._cancelled = () if msg is None else (msg,)
        self.loop_state.loop.call_soon(self.wake)
        return True

    def result(self) -> None:
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise asyncio.CancelledError(*cancelled)

    def wake(self) -> None:
        """Make the task go on, if it awaits this. Call this in the greenlet that runs the event loop."""
        if self._wakeup is not None:
            callback, context = self._wakeup
            self._wakeup = None
            context.run(callback, self)


def _is_sqlalchemys(waiter: Any) -> bool:
    # SQLAlchemy's await_only() recognizes SQLAlchemy's greenlets by this attribute.
    return getattr(waiter, "__sqlalchemy_greenlet_provider__", False)


class _Wake:
    """The callback that wakes the greenlet that made it. The event loop calls it."""

    def __init__(self, loop_state: _LoopState) -> None:
        self._loop_state = loop_state
        self._greenlet = getcurrent()

    def wait(self) -> None:
        """Park the greenlet until the event loop calls this object."""
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
    """A descriptor that the event loop watches for one wait.

    It is a duplicate. An event loop has one reader for each number. The user may have
    added a reader for the original, to wait for notifications.

    add_reader() and remove_reader() are called only in the event loop's own
    greenlet. While uvloop's libuv runs a callback, it keeps a pointer into the C
    stack, and add_reader() follows that pointer. In another greenlet, that part of
    the stack holds something else.
    """

    def __init__(self, loop_state: _LoopState, fd: int, state: int, wake: _Wake) -> None:
        self._loop_state = loop_state
        self._state = state
        self._wake = wake
        self._original = fd
        self._duplicate = -1
        try:
            self._duplicate = os.dup(fd)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        loop_state.loop.call_soon(self._watch if self._duplicate >= 0 else self._look)

    def _watch(self) -> None:
        if self in self._loop_state.ended:
            return
        try:
            if self._state != POLL_WRITE:
                self._loop_state.loop.add_reader(self._duplicate, self._wake)
            if self._state != POLL_READ:
                self._loop_state.loop.add_writer(self._duplicate, self._wake)
        except Exception as exc:
            self._wake.throw(exc)

    def _look(self) -> None:
        # No descriptor is free for the duplicate. A query needs none, so it goes on.
        if self in self._loop_state.ended:
            return
        if is_ready(select.poll(), self._original, self._state):
            self._wake()
        else:
            self._loop_state.loop.call_later(LOOK_AGAIN, self._look)

    def end(self) -> None:
        """End the watch as soon as the event loop can."""
        self._loop_state.ended.add(self)
        if self._loop_state.loop.is_closed():
            self.close()
        else:
            self._loop_state.loop.call_soon(self.close)

    def close(self) -> None:
        """End the watch at once."""
        if self not in self._loop_state.ended:
            return
        if self._duplicate >= 0:
            if not self._loop_state.loop.is_closed():
                self._loop_state.loop.remove_reader(self._duplicate)
                self._loop_state.loop.remove_writer(self._duplicate)
            # First: after an exception of a signal handler, this may be called again.
            duplicate, self._duplicate = self._duplicate, -1
            os.close(duplicate)
        self._loop_state.ended.discard(self)


class _Asyncio:
    """The adapter of asyncio: see `psycogreen._adapter`. Its hub is the `_LoopState` of the running event loop."""

    greenlet_type = _Worker

    def current(self) -> _LoopState | None:
        loop: Any = asyncio._get_running_loop()
        if loop is None:
            return None
        try:
            loop_state: _LoopState = loop._psycogreen
        except AttributeError:
            loop_state = _LoopState(loop)
        return loop_state

    def require_loop(self) -> _LoopState:
        """Return the state of the running event loop.

        Raises:
            RuntimeError: The running greenlet may not wait.
        """
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
        """Park until *future* is done; return its result or raise its exception."""
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

    def forget(self, fd: int) -> None:
        pass  # the loop takes out each descriptor with its reader

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
        return _Watch(loop_state, fd, callback)

    def handle_error(self, loop_state: _LoopState, exc: BaseException) -> None:
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            raise exc
        loop_state.loop.call_exception_handler({"message": "Unhandled exception in a greenlet", "exception": exc})

    def stray_switch(self, loop_state: _LoopState, result: object) -> None:
        raise RuntimeError(f"Invalid switch into a greenlet that waits for PostgreSQL: got {result!r}")


def _switch(loop_state: _LoopState) -> Any:
    """Switch to the event loop; return the value with which another greenlet switches back."""
    if _is_sqlalchemys(getcurrent()):
        return _switch_through_sqlalchemy(loop_state)
    return loop_state.greenlet.switch()


def _switch_through_sqlalchemy(loop_state: _LoopState) -> Any:
    """Switch to the event loop from a greenlet of SQLAlchemy's.

    The parent of such a greenlet runs in a task. It awaits the object that the
    greenlet passes to it by switching: here, a `_TaskWakeup`. Only the parent may
    resume this greenlet. If anything else resumes it, switch back at once and
    wake the task.
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
    """An awaitable for one wait of a task. The task goes on after call()."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._called = loop.create_future()
        self._task: Any = asyncio.current_task(loop)
        #: Whether the task has begun to await it.
        self.is_awaited = False
        #: Whether the task has gone on: after call(), or because the task was cancelled.
        self.has_come = False

    def __await__(self) -> Generator[Any, None, None]:
        self.is_awaited = True
        try:
            yield from self._called
        finally:
            self.has_come = True

    def call(self) -> None:
        """Wake the task."""
        if not self._called.done():
            self._called.set_result(None)

    def abandon(self, loop_state: _LoopState) -> None:
        """Close the task's coroutine here. The garbage collector might close it within another greenlet."""
        try:
            self._task.get_coro().close()
        except Exception as exc:
            loop_state.loop.call_exception_handler({"message": "Unhandled exception in a coroutine", "exception": exc})


class _Watch:
    def __init__(self, loop_state: _LoopState, fd: int, callback: Callable[..., object]) -> None:
        self._loop_state = loop_state
        self._fd = fd
        self._callback = callback
        self._stopped = False
        # In the event loop's own greenlet: see _Descriptor. And in an empty context:
        # otherwise the event loop would keep the context of its first wait.
        contextvars.Context().run(loop_state.loop.call_soon, self._start)

    def _start(self) -> None:
        if not self._stopped:
            self._loop_state.loop.add_reader(self._fd, self._ready)

    def _ready(self) -> None:
        loop_state = self._loop_state
        if not hasattr(loop_state.loop, "_nest_patched"):
            loop_state.ended_jobs = []
        # else nest_asyncio may run the event loop again within a task. If the task went on in this
        # callback, that event loop could not call it.
        try:
            self._callback()
        finally:
            try:
                loop_state.wake_tasks()
            finally:
                loop_state.ended_jobs = None

    def set_ref(self, awaited: bool) -> None:
        pass  # an event loop runs on, whether it watches something or not

    def stop(self) -> None:
        self._stopped = True
        if not self._loop_state.loop.is_closed():
            self._loop_state.loop.remove_reader(self._fd)


class _Timeout(BaseException):
    """A context manager that throws itself into the greenlet in its block when *seconds* have passed."""

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
    """Run blocking-style code in a greenlet of the running event loop.

    The event loop runs on while the code waits for PostgreSQL. Any other blocking
    call in the code blocks the event loop. The code runs in the caller's context:
    each sees the context variables that the other sets.

    When the task that awaits this is cancelled, the code gets the CancelledError
    where it waits. If it waits in a query, the query ends in the server too, and
    psycopg2 closes the connection. If the code has ended but the task has not yet
    fetched the result, the task still gets the CancelledError.

    Args:
        fn: The function to run.
        *args: Positional arguments of *fn*.
        **kwargs: Keyword arguments of *fn*.

    Returns:
        What *fn* returned.

    Raises:
        RuntimeError: No event loop runs in this thread.
        BaseException: What *fn* raised.
    """
    loop_state: _LoopState
    try:
        loop_state = asyncio.get_running_loop()._psycogreen  # type: ignore[attr-defined]
    except AttributeError:
        loop_state = _LoopState(asyncio.get_running_loop())
    job = _Job(loop_state, functools.partial(fn, *args, **kwargs))
    here = getcurrent()
    start = None
    if here is loop_state.greenlet:
        try:
            job.start(here.gr_context)
        except BaseException as exc:  # a signal handler's, when the function waits already
            if job.worker is not None:
                job.interrupt(exc)
            raise
    else:  # the first step of an eager task, which runs within another greenlet
        start = loop_state.loop.call_soon(loop_state.call, job.start, here.gr_context)
    while not job.done:
        try:
            await job
        except BaseException as exc:
            if start is not None:
                start.cancel()
            if job.worker is None:  # ended, or not started
                raise
            if isinstance(exc, GeneratorExit):  # from the coroutine's close(), so nobody awaits the result
                job.interrupt(GreenletExit())
                raise
            job.interrupt(exc)
    result: T = job.outcome()
    return result


@wait_callback(_adapter)
def asyncio_wait_callback(conn: Any, timeout: float | None = None) -> None:
    """Wait until psycopg2's connection *conn* is done; let the event loop run.

    psycopg2 calls it: see "Support for coroutine libraries" in its
    documentation. A thread in which no event loop runs waits alone.

    Args:
        conn: The connection that waits.
        timeout: Seconds that each single wait for the server may take, None
            for no limit. Use it through ``functools.partial``.

    Raises:
        RuntimeError: A wait here would stop the event loop: see `spawn`.
        TimeoutError: A wait took longer than *timeout*.
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(
    *, connections: bool = True, cancel: bool = True, timeout: float | None = None, drivers: Iterable[str] | None = None
) -> None:
    """Make psycopg2 and psycopg 3 cooperate with asyncio, for the whole process.

    From then on, code that calls psycopg2 in a thread with a running event loop must
    run in `spawn`. Undo it for psycopg2 with ``psycopg2.extensions.set_wait_callback(None)``.

    Args:
        connections: Make ``psycopg2.connect()`` return green connections: no call
            on them stops the event loop, and when a task is cancelled in a query,
            the query ends in the server too. False registers the wait callback
            alone.
        cancel: Ask the server to cancel the query of a green connection when an
            exception ends the wait for the query.
        timeout: Seconds that each single wait of psycopg2 for the server may take. Then
            ``TimeoutError`` is raised, and the connection closes. None is no limit.
        drivers: "psycopg2", "psycopg" (psycopg 3), or both; psycopg 3 need not be
            imported yet. None means all that are installed.

    Raises:
        ImportError: No driver is installed, or not the one that *drivers* names.
            Or psycopg2 is older than 2.9, or has no wait callbacks.
        TypeError, ValueError: An option is not what it should be.
    """
    make_green(asyncio_wait_callback, _adapter, connections, cancel, timeout, drivers)


patch_psycopg = make_psycopg_green
