"""psycopg2 on eventlet."""

import _socket
import contextlib
import errno
import functools
import math
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import eventlet
import eventlet.green.socket
import eventlet.hubs
import eventlet.patcher
import eventlet.tpool
import greenlet

from psycogreen import _forks
from psycogreen._drivers import make_green
from psycogreen._implementation import wait_callback
from psycogreen._waiting import LOOK_AGAIN, POLL_READ, POLL_READWRITE, POLL_WRITE, is_ready

__all__ = ["eventlet_wait_callback", "make_psycopg_green", "patch_psycopg"]

if os.name == "nt":
    # There a hub can watch sockets only, and neither duplicates of them nor pipes.
    raise ImportError("psycogreen.eventlet does not work on Windows. Use psycogreen.gevent")

_select = eventlet.patcher.original("select")
_thread = eventlet.patcher.original("_thread")
_os = eventlet.patcher.original("os")  # read() and write() of the patched one wait on the hub

# eventlet reads the same variable. Without its own resolver, getaddrinfo() would block.
_GREENDNS = os.environ.get("EVENTLET_NO_GREENDNS", "").lower() != "yes"


class _Seconds(float):
    """The *timeout* of make_psycopg_green(). That of the wait callback has no effect, as in release 1.0.2."""


class _Eventlet:
    """The adapter of eventlet: see `psycogreen._adapter`."""

    timeout_type = _Seconds
    thread_local = _thread._local()

    def current(self) -> Any:
        # Not get_hub(), which makes a hub where there is none.
        return getattr(eventlet.hubs._threadlocal, "hub", None)

    def wait_read(self, fd: int, timeout: float) -> None:
        # On a duplicate: the hub allows one reader for each number, and the reader of
        # *fd* may be a greenlet of the user's that listens for notifications.
        _waker(eventlet.hubs.get_hub())
        duplicate = _duplicate(fd)
        if duplicate is None:
            _look_until_ready(fd, POLL_READ, self.timeout_seconds(timeout))
            return
        try:
            self.wait(duplicate, POLL_READ, self.timeout_seconds(timeout))
        finally:
            os.close(duplicate)

    def reader(self, fd: int) -> "_Reader | None":
        hub = self.current()
        return None if hub is None else _Reader(hub, fd)

    def wait_write(self, fd: int, timeout: float) -> None:
        _waker(eventlet.hubs.get_hub())
        self.wait(fd, POLL_WRITE, self.timeout_seconds(timeout))

    def wait_readwrite(self, fd: int, timeout: float) -> None:
        # Not trampoline(), which refuses to wait for both. On a duplicate: see wait_read().
        hub = eventlet.hubs.get_hub()
        _waker(hub)
        seconds = self.timeout_seconds(timeout)
        duplicate = _duplicate(fd)
        if duplicate is None:
            _look_until_ready(fd, POLL_READWRITE, seconds)
            return
        me = greenlet.getcurrent()
        waiting = True

        def wake(fd: int) -> None:
            # The hub may call this for both events.
            if waiting:
                me.switch()

        listeners = []
        timer = None
        try:
            for event in (hub.READ, hub.WRITE):
                listeners.append(hub.add(event, duplicate, wake, me.throw, None))
            if seconds is not None:
                timer = hub.schedule_call_global(seconds, me.throw, TimeoutError("timed out"))
            hub.switch()
        finally:
            waiting = False
            if timer is not None:
                timer.cancel()
            for listener in listeners:
                hub.remove(listener)
            os.close(duplicate)

    def timeout_seconds(self, timeout: float) -> float | None:
        return timeout if isinstance(timeout, _Seconds) else None

    def poll(self) -> Any:
        return _select.poll()

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        if seconds is None:
            eventlet.hubs.trampoline(fd, read=state == POLL_READ, write=state != POLL_READ)
            return
        timed_out = TimeoutError("timed out")
        eventlet.hubs.trampoline(
            fd, read=state == POLL_READ, write=state != POLL_READ, timeout=seconds, timeout_exc=timed_out
        )

    def timeout(self, seconds: float) -> Any:
        return eventlet.Timeout(seconds)

    def getaddrinfo(self, host: str) -> list[Any]:
        addresses: list[Any]
        if _GREENDNS:
            addresses = eventlet.green.socket.getaddrinfo(host, None, type=_socket.SOCK_STREAM)
        else:
            addresses = eventlet.tpool.execute(_socket.getaddrinfo, host, None, type=_socket.SOCK_STREAM)
        return addresses

    def forget(self, fd: int) -> None:
        pass  # the hub takes out each descriptor when its listener ends

    def call_soon(self, hub: Any, fn: Callable[..., object], *args: Any) -> None:
        if self.current() is hub and greenlet.getcurrent() is not hub.greenlet:
            hub.schedule_call_global(0, fn, *args)
        else:
            # In the hub's greenlet, this may be a signal handler inside poll(), which
            # does not see a new timer. Another thread, or a signal handler inside
            # prepare_timers(), could lose the timer.
            _waker(hub).call(fn, args)

    def wait_for_ever(self) -> None:
        eventlet.hubs.get_hub().switch()

    def pause(self) -> None:
        eventlet.sleep(0)

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        _thread.start_new_thread(fn, args)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        return eventlet.tpool.execute(fn, *args)

    def greenlet(self, hub: Any) -> Any:
        return hub.greenlet

    def switch(self, hub: Any) -> Any:
        return hub.switch()

    def watch(self, hub: Any, fd: int, callback: Callable[..., object]) -> "_Watch":
        _waker(hub)
        return _Watch(hub, fd, callback)

    def handle_error(self, hub: Any, exc: BaseException) -> None:
        if isinstance(exc, hub.SYSTEM_EXCEPTIONS):
            raise exc
        hub.squelch_generic_exception((type(exc), exc, exc.__traceback__))

    def stray_switch(self, hub: Any, result: object) -> None:
        pass


def _duplicate(fd: int) -> int | None:
    """Return a duplicate of *fd*, None if no descriptor is free."""
    try:
        return os.dup(fd)
    except OSError as exc:
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return None


def _look_until_ready(fd: int, state: int, seconds: float | None) -> None:
    """Wait without another descriptor: what needs none, as a query, goes on."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    while not is_ready(_select.poll(), fd, state):
        if time.monotonic() > end:
            raise TimeoutError("timed out")
        eventlet.sleep(LOOK_AGAIN)


class _Reader:
    """What trampoline() does, without what it finds out each time."""

    __slots__ = ("_fd", "_hub", "hub_greenlet")

    def __init__(self, hub: Any, fd: int) -> None:
        _waker(hub)
        self._hub = hub
        self._fd = fd
        self.hub_greenlet = hub.greenlet

    def wait(self, me: Any) -> None:
        hub = self._hub
        own = _duplicate(self._fd)  # see wait_read()
        if own is None:
            _look_until_ready(self._fd, POLL_READ, None)
            return
        try:
            listener = hub.add(hub.READ, own, me.switch, me.throw, None)
            try:
                if hasattr(me, "switch_out"):
                    hub.switch()
                else:
                    self.hub_greenlet.switch()
            finally:
                hub.remove(listener)
        finally:
            os.close(own)


class _Watch:
    def __init__(self, hub: Any, fd: int, callback: Callable[..., object]) -> None:
        self._hub = hub
        self._listener = hub.add(hub.READ, fd, callback, _closed, None)

    def set_ref(self, awaited: bool) -> None:
        pass  # eventlet's hub runs on, whether it watches something or not

    def stop(self) -> None:
        with contextlib.suppress(KeyError):  # the hub has dropped it
            self._hub.remove(self._listener)


class _Waker:
    """A pipe that wakes a hub for calls from signal handlers and other threads.

    It must exist before the first such call. A poll() that a signal handler interrupts
    goes on with the descriptors with which it began.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._process = _forks.current()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        hub.add(hub.READ, self._reading, self._run, _closed, None)

    def __del__(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def call(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Make the hub call *fn*."""
        self.renew()
        self._calls.append((fn, args))
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups for the hub already
            _os.write(self._writing, b"w")

    def renew(self) -> None:
        """In a child process, replace the parent's pipe by a new one with the same numbers."""
        if not _forks.is_copy(self._process):
            return
        self._process = _forks.current()
        for mine, new in zip((self._reading, self._writing), os.pipe(), strict=True):
            os.set_blocking(new, False)
            os.dup2(new, mine, inheritable=False)
            os.close(new)
        self._calls.clear()

    def _run(self, fd: int) -> None:
        self.renew()
        with contextlib.suppress(BlockingIOError):
            _os.read(self._reading, 4096)
        while self._calls:
            fn, args = self._calls.popleft()
            self._hub.schedule_call_global(0, fn, *args)


# The hubs that have a waker.
_hubs: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _waker(hub: Any) -> _Waker:
    try:
        waker: _Waker = hub._psycogreen_waker
    except AttributeError:
        waker = hub._psycogreen_waker = _Waker(hub)
        _hubs.add(hub)
    return waker


class _ForkGuard:
    """Stands in for the epoll object of a hub while a fork is under way.

    The child shares the epoll instance with its parent. If the child removed a
    descriptor from it, the parent would miss that descriptor's events. Another
    library's at-fork handler may run the hub before _after_fork_in_child() is called.
    """

    def __init__(self, hub: Any) -> None:
        self.epoll = hub.poll
        self._hub = hub
        self._process = _forks.current()

    def __getattr__(self, name: str) -> Any:
        if _forks.is_copy(self._process):
            _renew(self._hub)
        return getattr(self.epoll, name)


def _renew(hub: Any) -> None:
    """In a child process, replace what *hub* shares with the parent's hub."""
    vars(hub).pop("wait", None)
    hub._psycogreen_waker.renew()
    guard: Any = getattr(hub, "poll", None)
    renewed = isinstance(guard, _ForkGuard)
    if renewed:
        hub.poll = guard.epoll
        fresh = _select.epoll()
        os.dup2(fresh.fileno(), hub.poll.fileno(), inheritable=False)
        fresh.close()
    tpool: Any = eventlet.tpool
    if tpool._setup_already:
        # A copy of the pool's greenlet waits here, and would take the parent's wake-ups.
        listener = hub.listeners[hub.READ].get(tpool._rsock.fileno())
        if listener is not None:
            hub.remove(listener)
            listener.defang()
    if renewed:
        for fd in {*hub.listeners[hub.READ], *hub.listeners[hub.WRITE]}:
            with contextlib.suppress(OSError):
                hub.register(fd, new=True)


def _wait_in_fork(hub: Any, process: int, seconds: float | None = None) -> None:
    """Do what the hub's wait() does, while a fork is under way."""
    if _forks.is_copy(process):
        _renew(hub)
    type(hub).wait(hub, seconds)


def _before_fork() -> None:
    for hub in list(_hubs):
        hub.wait = functools.partial(_wait_in_fork, hub, _forks.current())
        if hasattr(getattr(hub, "poll", None), "fileno"):
            hub.poll = _ForkGuard(hub)


def _after_fork_in_parent() -> None:
    for hub in list(_hubs):
        vars(hub).pop("wait", None)
        if isinstance(getattr(hub, "poll", None), _ForkGuard):
            hub.poll = hub.poll.epoll


def _after_fork_in_child() -> None:
    for hub in list(_hubs):
        _renew(hub)
    # The threads of eventlet's pool exist only in the parent. The next use makes a new pool.
    tpool: Any = eventlet.tpool
    tpool._rsock = tpool._wsock = tpool._reqq = tpool._rspq = tpool._coro = None
    tpool._threads.clear()
    tpool._setup_already = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _closed(exc: BaseException) -> None:
    print(f"psycogreen: {exc!r} on the reactor's descriptor", file=sys.stderr)


_adapter = _Eventlet()


@wait_callback(_adapter)
def eventlet_wait_callback(conn: Any, timeout: float = -1) -> None:
    """Wait until psycopg2's connection *conn* is done; let other greenlets run.

    psycopg2 calls it: see "Support for coroutine libraries" in its
    documentation.

    Args:
        conn: The connection that waits.
        timeout: No effect. It is there for code written for release 1.0.2, where it
            has no effect either. Use ``make_psycopg_green(timeout=...)`` instead, or
            put an ``eventlet.Timeout`` around the query.

    Raises:
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(
    *, connections: bool = True, cancel: bool = True, timeout: float | None = None, drivers: Iterable[str] | None = None
) -> None:
    """Make psycopg2 and psycopg 3 cooperate with eventlet, for the whole process.

    Undo it for psycopg2 with ``psycopg2.extensions.set_wait_callback(None)``.

    Args:
        connections: Make ``psycopg2.connect()`` return green connections: no call
            on them stops the hub, and when a greenlet is killed in a query, the
            query ends in the server too. False registers the wait callback
            alone, as release 1.0.2 did.
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
    make_green(eventlet_wait_callback, _adapter, connections, cancel, timeout, drivers)
    # Otherwise a later eventlet.monkey_patch() would register eventlet's own callback.
    eventlet.patcher.already_patched["psycopg"] = True


patch_psycopg = make_psycopg_green
