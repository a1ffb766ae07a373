"""psycopg2 on gevent."""

import contextlib
import functools
import select
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.monkey
import gevent.socket
from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import InvalidSwitchError
from gevent.socket import wait_read, wait_readwrite, wait_write
from greenlet import greenlet

from psycogreen._drivers import make_green
from psycogreen._implementation import wait_callback
from psycogreen._waiting import POLL_READ

__all__ = ["gevent_wait_callback", "make_psycopg_green", "patch_psycopg"]


# A method bound to a greenlet takes longer to find.
_switch = greenlet.switch


class _Gevent:
    """The adapter of gevent: see `psycogreen._adapter`."""

    thread_local = gevent.monkey.get_original("_thread", "_local")()

    current = staticmethod(get_hub_if_exists)

    wait_read = staticmethod(wait_read)
    wait_write = staticmethod(wait_write)
    wait_readwrite = staticmethod(wait_readwrite)

    def reader(self, fd: int) -> "_Reader | None":
        hub = get_hub_if_exists()
        # Other loops want each watcher closed, which is safe only in their own thread.
        if hub is None or type(hub.loop).__module__ != "gevent.libev.corecext":
            return None
        return _Reader(hub, fd)

    def timeout_seconds(self, timeout: float | None) -> float | None:
        return timeout

    def poll(self) -> Any:
        try:
            return gevent.monkey.get_original("select", "poll")()
        except AttributeError:
            return _Select()

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        (wait_read if state == POLL_READ else wait_write)(fd, timeout=seconds)

    def timeout(self, seconds: float) -> Any:
        return gevent.Timeout(seconds)

    def getaddrinfo(self, host: str) -> list[Any]:
        addresses: list[Any] = gevent.socket.getaddrinfo(host, None, type=gevent.socket.SOCK_STREAM)
        return addresses

    def call_soon(self, hub: Any, fn: Callable[..., object], *args: Any) -> None:
        hub.loop.run_callback_threadsafe(fn, *args)

    def wait_for_ever(self) -> None:
        gevent.get_hub().switch()

    def pause(self) -> None:
        # sleep(0) returns before the loop has looked at its sockets and timers.
        gevent.sleep(gevent.get_hub().loop.approx_timer_resolution)

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        gevent.monkey.get_original("_thread", "start_new_thread")(fn, args)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        return gevent.get_hub().threadpool.apply(fn, args)

    def forget(self, fd: int) -> None:
        # libev never removes a descriptor: the kernel does that when the socket is closed. Here the socket stays
        # open. libev would take its next event for an error, and make another epoll instance to mend it. If no
        # descriptor is free for one, gevent's loop stops.
        hub = get_hub_if_exists()
        if hub is not None and type(hub.loop).__module__.startswith("gevent.libev") and hasattr(select, "EPOLLIN"):
            instance = hub.loop.fileno()  # None if libev uses another function than epoll
            if instance is not None:
                _epoll_ctl()(instance, 2, fd, None)  # EPOLL_CTL_DEL; an error says that it was not there

    def greenlet(self, hub: Any) -> Any:
        return hub

    def switch(self, hub: Any) -> Any:
        return hub.switch()

    def watch(self, hub: Any, fd: int, callback: Callable[..., object]) -> "_Watch":
        return _Watch(hub.loop, fd, callback)

    def handle_error(self, hub: Any, exc: BaseException) -> None:
        # Without a context, gevent takes any error for one of the system.
        hub.handle_error("psycogreen: greenlet", type(exc), exc, exc.__traceback__)

    def stray_switch(self, hub: Any, result: object) -> None:
        raise InvalidSwitchError(f"Invalid switch into a greenlet that waits for PostgreSQL: got {result!r}")


@functools.cache
def _epoll_ctl() -> Any:
    # gevent's monkey-patching removes select.epoll, and CPython's object would close the loop's descriptor.
    import ctypes  # here, because it takes longer to import than this module

    return ctypes.CDLL(None).epoll_ctl


class _Select:
    """What a thread waits in on Windows, where there is no ``select.poll``."""

    def __init__(self) -> None:
        self._waiting: tuple[list[int], list[int]] = [], []

    def register(self, fd: int, events: int) -> None:
        for waiting, event in zip(self._waiting, (1, 4), strict=True):  # POLLIN and POLLOUT
            if events & event:
                waiting.append(fd)

    def poll(self, timeout: float | None = None) -> bool:
        seconds = None if timeout is None else timeout / 1000
        if not any(self._waiting):
            # There select() refuses to wait for nothing.
            gevent.monkey.get_original("time", "sleep")(seconds)
            return False
        read, write = self._waiting
        # A failed connect is in the third list alone.
        return any(gevent.monkey.get_original("select", "select")(read, write, write, seconds))


class _Reader:
    """A watcher that is kept. To gevent's loop it is no new one, so the loop leaves the kernel's registration alone."""

    __slots__ = ("_watcher", "hub_greenlet")

    def __init__(self, hub: Any, fd: int) -> None:
        self.hub_greenlet = hub
        self._watcher = hub.loop.io(fd, 1)

    def wait(self, me: Any) -> None:
        watcher = self._watcher
        try:
            watcher.start(_switch, me, watcher)
            result = self.hub_greenlet.switch()
        finally:
            watcher.stop()
        if result is not watcher:
            _adapter.stray_switch(self.hub_greenlet, result)


class _Watch:
    def __init__(self, loop: Any, fd: int, callback: Callable[..., object]) -> None:
        self._loop = loop
        self._callback = callback
        self._watcher = loop.io(fd, 1, ref=False)
        # libuv's loop ignores ref=False for a watcher of a descriptor.
        self._can_be_unref = not self._watcher.ref
        if self._can_be_unref:
            self._watcher.start(callback)

    def set_ref(self, awaited: bool) -> None:
        # hub.join() and gevent.wait() return when no watcher with a reference is active.
        if self._can_be_unref:
            self._watcher.ref = awaited
        elif awaited:
            self._watcher.start(self._callback)
        else:
            self._watcher.stop()

    def stop(self) -> None:
        if getattr(self._loop, "ptr", True):  # a destroyed loop has a false `ptr`, or none
            with contextlib.suppress(ValueError):
                self._watcher.stop()
                self._watcher.close()
        else:
            # The loop has closed its side. A watcher of cffi's would still warn, in gevent's debug mode, that nobody
            # closed it, and fail to.
            with contextlib.suppress(AttributeError):
                getattr(self._watcher, "_watcher_ref", self._watcher)._watcher = None


_adapter = _Gevent()


@wait_callback(_adapter)
def gevent_wait_callback(conn: Any, timeout: float | None = None) -> None:
    """Wait until psycopg2's connection *conn* is done; let other greenlets run.

    psycopg2 calls it: see "Support for coroutine libraries" in its
    documentation.

    Args:
        conn: The connection that waits.
        timeout: Seconds that each single wait for the server may take, None
            for no limit. Use it through ``functools.partial``.

    Raises:
        TimeoutError: A wait took longer than *timeout*.
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(
    *, connections: bool = True, cancel: bool = True, timeout: float | None = None, drivers: Iterable[str] | None = None
) -> None:
    """Make psycopg2 and psycopg 3 cooperate with gevent, for the whole process.

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
    make_green(gevent_wait_callback, _adapter, connections, cancel, timeout, drivers)


patch_psycopg = make_psycopg_green
