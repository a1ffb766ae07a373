"""psycopg2 on uWSGI's own green threads: uGreen, and its plugin greenlet.

uWSGI runs each request on an async core. With uGreen a core is a C stack, with the
plugin it is a greenlet. To wait, a core registers a descriptor and suspends: uWSGI's
loop runs other cores, and resumes this one when the descriptor can be read. With
uGreen CPython needs some help, see ``_ugreen.c``. No exception can be thrown into a
core. A timeout, or a close() in another request, wakes the core instead, and the
core raises the exception itself.

uWSGI patches nothing. If a request holds a lock of the standard library over a
query, the next request to ask for that lock stops the worker.

Without ``enable-threads``, and with the plugin, native threads stand still while all
requests wait. The work that other adapters give to a thread is then done at once,
while no other request runs: names are resolved, the files of large objects are read
and written, and the server is asked to cancel a query.
"""

import _socket
import _thread
import contextlib
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any

from psycogreen import _waiters
from psycogreen._implementation import wait_callback
from psycogreen._psycopg2.activate import register
from psycogreen._waiting import POLL_READ, WaitTimeout, effective_timeout

# make_psycopg_green() says which of these is missing.
try:
    import uwsgi
except ImportError:
    uwsgi = None
try:
    from greenlet import getcurrent
except ImportError:
    getcurrent = None
try:
    from psycogreen import _ugreen
except ImportError:
    _ugreen = None  # type: ignore[assignment]

__all__ = ["make_psycopg_green", "patch_psycopg", "uwsgi_wait_callback"]

# Bytes. In a smaller stack, deep recursion overflows the stack before CPython
# reaches its recursion limit, and the worker crashes.
STACK = 1 << 20

# Seconds after which a request to cancel a query is given up, where there are no
# threads: all of the worker's requests wait meanwhile.
CANCEL_TIMEOUT = 1.0


class _Main:
    """The stack on which uWSGI's loop runs, and the signal handlers registered with uWSGI."""

    parent = None


class _Core:
    """An async core: uWSGI's counterpart of a greenlet.

    If several descriptors of a core become ready at once, uWSGI's loop closes some
    of them. So it watches a single one for each core: an epoll instance that holds
    the descriptors for which the core waits.
    """

    def __init__(self, parent: _Main) -> None:
        self.parent = parent
        # The WaitTimeout in whose block the core is.
        self.timeout: WaitTimeout | None = None
        self._thrown: BaseException | None = None
        self._epoll = select.epoll()
        # Writing to it makes the epoll instance ready.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)

    def wait(self, fd: int, flags: int, seconds: float | None) -> None:
        """Suspend this core, the running one, until *fd* is ready for *flags* of epoll.

        Raises:
            TimeoutError: It took longer than *seconds*; None is no limit.
            WaitTimeout: The core is inside a WaitTimeout, which ended first.
            BaseException: throw() was called with this exception.
        """
        seconds, ended = effective_timeout(seconds, self)
        ready: list[int] = []
        self._epoll.register(fd, flags)
        timer = None
        try:
            if seconds is not None:
                timer = _ugreen.timer(seconds)
                self._epoll.register(timer, select.EPOLLIN)
            while not ready and self._thrown is None:
                _ugreen.wait(self._epoll.fileno())
                _adapter.run_pending_calls()
                ready = [number for number, _ in self._epoll.poll(0) if number != self._wake]
        finally:
            if timer is not None:
                os.close(timer)
            with contextlib.suppress(OSError):  # another request closed it
                self._epoll.unregister(fd)
            thrown, self._thrown = self._thrown, None
            if thrown is not None:
                self._drain()
        if thrown is not None:
            raise thrown
        if fd not in ready:
            raise ended

    def throw(self, exc: BaseException) -> None:
        """Wake the core; its wait() raises *exc*."""
        self._thrown = exc
        os.eventfd_write(self._wake, 1)

    def pause(self) -> None:
        """Suspend this core, the running one, for one round of uWSGI's loop."""
        os.eventfd_write(self._wake, 1)
        try:
            _ugreen.wait(self._epoll.fileno())
        finally:
            self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)


class _Uwsgi:
    """The adapter of uWSGI: see `psycogreen._adapter`."""

    def __init__(self) -> None:
        self._main = _Main()
        # Returns uWSGI's number of the running core, 0 outside of requests, None in
        # another thread. Until set_up() every wait is that of another thread.
        self._number: Callable[[], int | None] = lambda: None
        # Whether native threads run while all requests wait.
        self._threads = True
        # By uWSGI's number. As many as uWSGI's option async says.
        self._cores: dict[int, _Core] = {}
        # Calls to be made on the main stack. No Python code of ours runs there, so
        # the core that is resumed first makes them.
        self._pending_calls: list[tuple[Callable[..., object], Any]] = []
        self._calling = False

    def set_up(self) -> None:
        """Prepare for the engine that uWSGI's options name.

        Raises:
            RuntimeError: This build of uWSGI is not known to `_ugreen`.
        """
        if "greenlet" in uwsgi.opt:
            # The plugin takes the GIL once and keeps it.
            self._threads = False
            self._thread = _thread.get_ident()
            self._number = self._number_by_greenlet
        else:
            _ugreen.install()
            self._threads = bool(uwsgi.has_threads)
            self._number = _ugreen.core
        _ugreen.use(uwsgi)

    def _number_by_greenlet(self) -> int | None:
        if _thread.get_ident() != self._thread:
            return None
        # The plugin sets this attribute on the greenlet of each request.
        number: int = getattr(getcurrent(), "uwsgi_wsgi_req", 0)
        return number

    def running(self) -> Any:
        """Return the running core, the main stack, or in another thread the running greenlet."""
        number = self._number()
        if number is None:
            return getcurrent()
        return self._core(number) if number and not self._calling else self._main

    def _core(self, number: int) -> _Core:
        core = self._cores.get(number)
        if core is None:
            core = self._cores[number] = _Core(self._main)
        return core

    def current(self) -> _Core | None:
        number = self._number()
        return self._core(number) if number else None

    def _wait(self, fd: int, flags: int, timeout: float | None) -> None:
        core = self.current()
        assert core is not None
        core.wait(fd, flags, timeout)

    def wait_read(self, fd: int, timeout: float) -> None:
        self._wait(fd, select.EPOLLIN, self.timeout_seconds(timeout))

    def wait_write(self, fd: int, timeout: float) -> None:
        self._wait(fd, select.EPOLLOUT, self.timeout_seconds(timeout))

    def wait_readwrite(self, fd: int, timeout: float) -> None:
        self._wait(fd, select.EPOLLIN | select.EPOLLOUT, self.timeout_seconds(timeout))

    def timeout_seconds(self, timeout: float) -> float | None:
        return None if timeout < 0 else timeout

    def poll(self) -> Any:
        return select.poll()

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        self._wait(fd, select.EPOLLIN if state == POLL_READ else select.EPOLLOUT, seconds)

    def timeout(self, seconds: float) -> WaitTimeout:
        core = self.current()
        assert core is not None
        return WaitTimeout(seconds, core)

    def getaddrinfo(self, host: str) -> list[Any]:
        addresses: list[Any] = self.run_in_thread(lambda: _socket.getaddrinfo(host, None, type=_socket.SOCK_STREAM))
        return addresses

    def forget(self, fd: int) -> None:
        pass  # uWSGI takes out each descriptor when its wait ends

    def call_soon(self, hub: _Core, fn: Callable[..., object], *args: Any) -> None:
        self._pending_calls.append((fn, args))

    def run_pending_calls(self) -> None:
        """Make the calls left for the main stack."""
        if self._calling:
            return
        self._calling = True
        try:
            pending, self._pending_calls = self._pending_calls, []
            for fn, args in pending:
                try:
                    fn(*args)
                except Exception:
                    traceback.print_exc()  # not an error of this core
        finally:
            self._calling = False

    def wait_for_ever(self) -> None:
        core = self.current()
        while core is not None:
            core.pause()

    def pause(self) -> None:
        core = self.current()
        assert core is not None
        core.pause()
        self.run_pending_calls()

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        if self._threads:
            _thread.start_new_thread(fn, args)
            return
        with contextlib.suppress(WaitTimeout), WaitTimeout(CANCEL_TIMEOUT):
            fn(*args)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        if not self._threads:
            return fn(*args)
        ended, end = os.pipe()
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.extend((fn(*args), None))
            except BaseException as exc:
                outcome.extend((None, exc))
            finally:
                os.close(end)

        try:
            try:
                self.start_thread(run)
            except BaseException:
                os.close(end)
                raise
            self.wait(ended, POLL_READ, None)
        finally:
            os.close(ended)
        result, exc = outcome
        if exc is not None:
            raise exc
        return result

    def greenlet(self, hub: _Core) -> _Main:
        return self._main


_adapter = _Uwsgi()


@wait_callback(_adapter)
def uwsgi_wait_callback(conn: Any, timeout: float = -1) -> None:
    """Wait until psycopg2's connection *conn* is done; let other requests run.

    psycopg2 calls it: see "Support for coroutine libraries" in its
    documentation. Outside of requests (while the application is loaded, in
    uWSGI's signal handlers and timers, in native threads) it waits without
    letting others run.

    Args:
        conn: The connection that waits.
        timeout: Seconds that each single wait for the server may take, -1
            for no limit. Use it through ``functools.partial``.

    Raises:
        TimeoutError: A wait took longer than *timeout*.
        psycopg2.Error: The query, the connection or the poll failed.
    """


def make_psycopg_green(*, connections: bool = True, cancel: bool = True, timeout: float | None = None) -> None:
    """Make psycopg2 cooperate with uWSGI's uGreen, or its plugin greenlet, for the whole process.

    Call it where the application is loaded. Undo it with
    ``psycopg2.extensions.set_wait_callback(None)``.

    With uGreen set ``enable-threads = true``. Without that option, and with the
    plugin, all requests of the worker wait while a host's name is resolved, and,
    for a second at most, while the server is asked to cancel a query.

    Args:
        connections: Make ``psycopg2.connect()`` return green connections: no call
            on them stops the worker. False registers the wait callback alone.
        cancel: Ask the server to cancel the query of a green connection when an
            exception ends the wait for the query.
        timeout: Seconds that each single wait for the server may take. Then
            ``TimeoutError`` is raised, and the connection closes. None is no limit.

    Raises:
        ImportError: psycopg2 is not installed, is older than 2.9, or has no wait
            callbacks, or the process is not uWSGI.
        RuntimeError: uWSGI's options do not allow it; the message says what to do.
        TypeError, ValueError: An option is not what it should be.
    """
    _check()
    _adapter.set_up()
    _waiters.set_getcurrent(_adapter.running)
    register(uwsgi_wait_callback, _adapter, connections, cancel, timeout)


patch_psycopg = make_psycopg_green


def _check() -> None:
    """Check that uWSGI's options allow psycopg2 to be green.

    Raises:
        ImportError, RuntimeError: See make_psycopg_green().
    """
    if uwsgi is None:
        raise ImportError(
            "psycogreen.uwsgi works only inside uWSGI, whose module 'uwsgi' is not here:"
            " make psycopg2 green where uWSGI loads the application"
        )
    options = uwsgi.opt
    if "gevent" in options:
        raise RuntimeError("uWSGI runs gevent: use psycogreen.gevent.make_psycopg_green()")
    if "ugreen" not in options and "greenlet" not in options:
        raise RuntimeError(
            "uWSGI runs no green threads that psycogreen.uwsgi knows:"
            " set async = 20, ugreen = true, ugreen-stacksize = 512, or gevent = 20 and use psycogreen.gevent"
        )
    if uwsgi.cores < 2:
        raise RuntimeError("uWSGI's option ugreen does nothing without async: set async = 20, or more")
    if getcurrent is None:
        raise ImportError("psycogreen.uwsgi needs greenlet: pip install psycogreen[uwsgi]")
    if _ugreen is None:
        raise RuntimeError(
            "uWSGI's green threads need psycogreen's compiled modules, and they are not here:"
            " install psycogreen where there is a C compiler, or set gevent = 20 and use psycogreen.gevent"
        )
    if "greenlet" in options:
        return
    stack = int(options.get("ugreen-stacksize", 0)) * os.sysconf("SC_PAGE_SIZE") or 256 * 1024  # uWSGI's default
    if stack < STACK:
        raise RuntimeError(
            f"uGreen's stacks have {stack // 1024} kB, which Python code can overflow, by which the worker crashes:"
            " set ugreen-stacksize = 512 (in pages)"
        )
    if sys.version_info >= (3, 14):
        # It limits the recursion of C code by the bounds of the thread's own stack, so not on uGreen's:
        # to parse a deeply nested JSON document would crash the worker.
        raise RuntimeError("uGreen can't run CPython 3.14 and later: set gevent = 20 and use psycogreen.gevent")
