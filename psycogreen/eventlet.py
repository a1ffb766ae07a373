"""psycopg2 on eventlet."""

import _socket
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.green.socket
import eventlet.hubs
import eventlet.patcher
import eventlet.tpool
import greenlet

from psycogreen._implementation import wait_callback
from psycogreen._psycopg2.activate import register
from psycogreen._waiting import POLL_READ

__all__ = ["eventlet_wait_callback", "make_psycopg_green", "patch_psycopg"]

_select = eventlet.patcher.original("select")
_thread = eventlet.patcher.original("_thread")

# eventlet reads the same variable. Without its own resolver, getaddrinfo() would block.
_GREENDNS = os.environ.get("EVENTLET_NO_GREENDNS", "").lower() != "yes"


class _Eventlet:
    """The adapter of eventlet: see `psycogreen._adapter`."""

    def current(self) -> Any:
        # Not get_hub(), which makes a hub where there is none.
        return getattr(eventlet.hubs._threadlocal, "hub", None)

    def wait_read(self, fd: int, timeout: float) -> None:
        eventlet.hubs.trampoline(fd, read=True)

    def wait_write(self, fd: int, timeout: float) -> None:
        eventlet.hubs.trampoline(fd, write=True)

    def wait_readwrite(self, fd: int, timeout: float) -> None:
        # Not trampoline(), which refuses to wait for both.
        hub = eventlet.hubs.get_hub()
        me = greenlet.getcurrent()
        waiting = True

        def wake(fd: int) -> None:
            # The hub may call it once for each event.
            if waiting:
                me.switch()

        listeners = []
        try:
            for event in (hub.READ, hub.WRITE):
                listeners.append(hub.add(event, fd, wake, me.throw, None))
            hub.switch()
        finally:
            waiting = False
            for listener in listeners:
                hub.remove(listener)

    def timeout_seconds(self, timeout: float) -> None:
        return None  # the timeout has no effect, as in release 1.0.2

    def poll(self) -> Any:
        return _select.poll()

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        eventlet.hubs.trampoline(
            fd, read=state == POLL_READ, write=state != POLL_READ, timeout=seconds, timeout_exc=TimeoutError
        )

    def timeout(self, seconds: float) -> Any:
        return eventlet.Timeout(seconds)

    def getaddrinfo(self, host: str) -> list[Any]:
        found: list[Any]
        if _GREENDNS:
            found = eventlet.green.socket.getaddrinfo(host, None, type=_socket.SOCK_STREAM)
        else:
            found = eventlet.tpool.execute(_socket.getaddrinfo, host, None, type=_socket.SOCK_STREAM)
        return found

    def call_soon(self, hub: Any, fn: Callable[..., object], *args: Any) -> None:
        hub.schedule_call_global(0, fn, *args)

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
        return _Watch(hub, fd, callback)

    def handle_error(self, hub: Any, exc: BaseException) -> None:
        if isinstance(exc, hub.SYSTEM_EXCEPTIONS):
            raise exc
        hub.squelch_generic_exception((type(exc), exc, exc.__traceback__))

    def stray_switch(self, hub: Any, result: object) -> None:
        pass


class _Watch:
    def __init__(self, hub: Any, fd: int, callback: Callable[..., object]) -> None:
        self._hub = hub
        self._listener = hub.add(hub.READ, fd, callback, _closed, None)

    def set_ref(self, awaited: bool) -> None:
        pass  # eventlet's hub runs on, whether it watches something or not

    def stop(self) -> None:
        with contextlib.suppress(KeyError):  # the hub has dropped it
            self._hub.remove(self._listener)


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
        timeout: Accepted for the sake of code written for release 1.0.2,
            where it has no effect: -1 means no limit. Put an
            ``eventlet.Timeout`` around the query instead.

    Raises:
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(connections: bool = True, cancel: bool = True) -> None:
    """Make psycopg2 cooperate with eventlet, for the whole process.

    Undo it with ``psycopg2.extensions.set_wait_callback(None)``.

    Args:
        connections: Make ``psycopg2.connect()`` return green connections: no call
            on them stops the hub, and when a greenlet is killed in a query, the
            query ends in the server too. False registers the wait callback
            alone, as release 1.0.2 did.
        cancel: Ask the server to cancel the query of a green connection when an
            exception ends the wait for the query.

    Raises:
        ImportError: psycopg2 is not installed or has no wait callbacks.
    """
    register(eventlet_wait_callback, _adapter, connections, cancel)
    # A later eventlet.monkey_patch() would put eventlet's own callback there.
    eventlet.patcher.already_patched["psycopg"] = True


patch_psycopg = make_psycopg_green
