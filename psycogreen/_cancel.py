"""Asking the server to cancel a query, without stopping the hub.

libpq 17 and later have non-blocking functions for the request, and encrypt it if
the connection is encrypted (libpq's documentation, "Canceling Queries in Progress").
An older libpq can only block: then a native thread makes the request.
"""

import _socket
import atexit
import collections
import contextlib
import ctypes
import functools
import os
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from ctypes import c_char_p, c_int, c_void_p
from typing import Any

import greenlet

from psycogreen import _forks, _waiters
from psycogreen._adapter import Adapter
from psycogreen._waiting import POLL_READ, POLL_WRITE, wait_in_thread

# Seconds that a request in the background may take.
CANCEL_TIMEOUT = 10.0
# Seconds for which requests in the background may delay the end of the process.
CANCEL_TIMEOUT_AT_EXIT = 1.0

# The most native threads that make requests where libpq can only block. While the
# server is out of reach, each request takes minutes; further ones wait for a thread.
MAX_THREADS = 8

# The requests for the native threads, and one object for each of those threads.
_jobs: collections.deque[Callable[[], None]] = collections.deque()
_workers: set[object] = set()

# PGRES_POLLING_OK. PGRES_POLLING_READING and PGRES_POLLING_WRITING equal POLL_READ
# and POLL_WRITE.
_DONE = 3

# Seconds to wait for the killed query's end before the first repetition of its
# request. Each further wait takes twice as long.
FIRST_REPETITION = 0.5

# The waits of a request: for each a descriptor, and POLL_READ or POLL_WRITE. None
# means that the server has the request, which then can be repeated.
_Steps = Generator[tuple[int, int] | None, None, None]

# A function that does one of these waits: descriptor, state, seconds.
_Wait = Callable[[int, int, float | None], None]

# The requests in the background.
_pending: set["CancelRequest"] = set()


class CancelError(Exception):
    """The server could not be asked."""


def cancel(request: "CancelRequest", blocking: bool = False) -> None:
    """Wait until the server has *request*.

    The hub's own greenlet can't wait: called there, this leaves *request* to the
    background.

    Args:
        request: The request.
        blocking: Stop the thread meanwhile, although it has a hub.

    Raises:
        CancelError: The server could not be asked.
    """
    adapter = request.adapter
    current = adapter.current()
    if current is None or blocking:
        request.finish(functools.partial(wait_in_thread, adapter), None)
    elif _waiters.getcurrent() is adapter.greenlet(current):
        _finish_in_background(request)
    else:
        request.finish(adapter.wait, None)


def cancel_in_background(request: "CancelRequest", fd: int | None) -> None:
    """Let *request* be finished in the background; a failure is not reported.

    Args:
        request: The request.
        fd: The descriptor of the connection, which afterwards can only be closed; None to leave it alone.
    """
    if fd is not None:
        with contextlib.suppress(OSError):
            request.take_socket(fd)
    _finish_in_background(request)


def _finish_in_background(request: "CancelRequest") -> None:
    """Let a greenlet of this thread's hub finish *request*, or else a native thread."""
    _pending.add(request)
    adapter = request.adapter
    current = adapter.current()
    if current is not None and isinstance(adapter.greenlet(current), greenlet.greenlet):
        request.left_to = weakref.ref(current)
        thread_local = getattr(adapter, "thread_local", None)
        if thread_local is not None:
            _left_in_thread(thread_local).add(request)
        # The hub starts the greenlet, so the greenlet returns to the hub.
        adapter.call_soon(current, _Start(request))
    else:
        _finish_in_thread(request)


def _finish_in_thread(request: "CancelRequest") -> None:
    wait = functools.partial(wait_in_thread, request.adapter)
    request.adapter.start_thread(_finish, request, wait, CANCEL_TIMEOUT)


def _hand_over(request: "CancelRequest") -> None:
    """Let a native thread finish *request*, if it is not finished: the hub to which it was left has ended."""
    if request in _pending and not _forks.is_copy(request.process):
        with contextlib.suppress(RuntimeError):  # no thread can be started: the process's end is the next chance
            _finish_in_thread(request)
            request.left_to = None


class _Start:
    """The call that starts a request's greenlet in a hub. A hub that is destroyed drops it."""

    def __init__(self, request: "CancelRequest") -> None:
        self._request: CancelRequest | None = request

    def __call__(self) -> None:
        request, self._request = self._request, None
        assert request
        greenlet.greenlet(_finish).switch(request, request.adapter.wait, CANCEL_TIMEOUT)

    # Bound here because names are gone while the interpreter finalizes.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._request is not None and not is_finalizing():
            _hand_over(self._request)


class _LeftInThread:
    """The requests that were left to the hub of a native thread. Freed with the thread, and with it the hub ends."""

    def __init__(self) -> None:
        self._requests: weakref.WeakSet[CancelRequest] = weakref.WeakSet()
        self._hub: Any = None

    def add(self, request: "CancelRequest") -> None:
        """Add *request*. Those that were left to another hub than this one will not go on there."""
        if self._hub is None or self._hub() is not request.left_to():
            self._hub = request.left_to
            self.hand_over()
        self._requests.add(request)

    def hand_over(self) -> None:
        """Let native threads finish the requests."""
        requests, self._requests = self._requests, weakref.WeakSet()
        for request in list(requests):
            _hand_over(request)

    # Bound here because names are gone while the interpreter finalizes.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():
            self.hand_over()


def _left_in_thread(thread_local: Any) -> _LeftInThread:
    """Return the object of the running thread."""
    left: _LeftInThread
    try:
        left = thread_local.left
    except AttributeError:
        left = thread_local.left = _LeftInThread()
    return left


def _finish(request: "CancelRequest", wait: _Wait, seconds: float) -> None:
    with contextlib.suppress(CancelError, OSError):
        request.finish(wait, seconds)


@atexit.register
def _finish_all() -> None:
    """Finish the requests in the background: after Ctrl-C, for example, the hub does not run again."""
    # A child process leaves its parent's requests alone.
    pending = [request for request in _pending if not _forks.is_copy(request.process)]
    deadline = _finish_here(request for request in pending if request.left_to is not None)
    for request in pending:
        while request in _pending and time.monotonic() < deadline:
            request.adapter.poll().poll(5)


def finish_left_to(current: Any) -> None:
    """Finish the requests that were left to the hub *current*, which is about to end."""
    _finish_here(request for request in list(_pending) if request.left_to and request.left_to() is current)


def _finish_here(requests: Iterable["CancelRequest"]) -> float:
    """Finish *requests* in this thread; return the deadline, by time.monotonic(), for all requests."""
    deadline = time.monotonic() + CANCEL_TIMEOUT_AT_EXIT
    for request in requests:
        _finish(request, functools.partial(wait_in_thread, request.adapter), deadline - time.monotonic())
    return deadline


class CancelRequest:
    """One request to cancel a query."""

    def __init__(self, adapter: Adapter, library: ctypes.PyDLL, pgconn: int) -> None:
        """Copy the cancel key of a connection and start the request.

        Args:
            adapter: The coroutine library.
            library: The driver's libpq.
            pgconn: The ``PGconn *`` of the connection. The request refers to neither afterwards.

        Raises:
            CancelError: The request failed at once.
            OSError: No descriptor is free.
            RuntimeError: No thread can be started.
        """
        self.adapter = adapter
        self.process = _forks.current()
        self.left_to: Any = None  # a weak reference to the hub that finishes the request, or None for a native thread
        if _can_request(library):
            self._steps = _steps(library, pgconn)
        else:
            self._steps = _steps_of_thread(adapter, library, pgconn)
        self._awaited: tuple[int, int] | None = next(self._steps)
        self._socket = -1

    def take_socket(self, fd: int) -> None:
        """Keep the connection to the server open until the request is finished, although libpq closes *fd*.

        PgBouncer forgets a client whose connection is closed. It could not find the
        query of the request any more, and the query would run on.

        Raises:
            OSError: No descriptor is free.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            self._socket = os.dup(fd)
            self.adapter.forget(fd)
            # libpq's Terminate message goes to /dev/null.
            os.dup2(nothing, fd, inheritable=False)
        finally:
            os.close(nothing)

    def fileno(self) -> int:
        """Return the descriptor that the request waits for."""
        return self._awaited[0] if self._awaited else -1

    def finish(self, wait: _Wait, seconds: float | None) -> None:
        """Wait until the server has the request.

        The hub in which an earlier call waits may have ended. Then this call takes its place.

        Raises:
            CancelError: The request failed.
            TimeoutError: The request took longer than *seconds*; None is no limit.
        """
        self._finisher = me = object()
        deadline = None if seconds is None else time.monotonic() + seconds
        pause = FIRST_REPETITION
        try:
            while True:
                while self._awaited:
                    wait(*self._awaited, None if deadline is None else max(0, deadline - time.monotonic()))
                    _forks.stop_copy(self.process, self.adapter, self)
                    self._awaited = next(self._steps, None)
                if self._socket < 0 or deadline is None or self._query_ends(wait, pause, deadline):
                    return
                pause *= 2
                self._awaited = next(self._steps, None)
                if self._awaited is None:
                    return
        except greenlet.GreenletExit:
            # A hub that is destroyed drops its greenlets.
            if self._finisher is me and self in _pending:
                self._finisher = None
                _hand_over(self)
            raise
        finally:
            if self._finisher is me:
                _pending.discard(self)
                self._steps.close()
                if self._socket >= 0:
                    os.close(self._socket)
                    self._socket = -1

    def _query_ends(self, wait: _Wait, seconds: float, deadline: float) -> bool:
        """Wait until the server answers or closes the killed connection; return False to repeat the request.

        A server drops a request if it has not read the query yet, for lack of CPU time. Then
        the request must be repeated. A server that waits for the rest of a message or of a
        COPY ignores the request, but not the end of the data that this side sends.
        """
        sock = _socket.socket(fileno=self._socket)
        with contextlib.suppress(OSError):
            sock.shutdown(_socket.SHUT_WR)
        sock.detach()
        try:
            wait(self._socket, POLL_READ, max(0, min(seconds, deadline - time.monotonic())))
        except TimeoutError:
            return time.monotonic() >= deadline
        finally:
            _forks.stop_copy(self.process, self.adapter, self)
        return True


def _can_request(library: ctypes.PyDLL) -> bool:
    """Return whether libpq has the non-blocking functions, as version 17 and later do."""
    return hasattr(library, "PQcancelCreate")


def _steps(library: ctypes.PyDLL, pgconn: int) -> _Steps:
    pq = _nonblocking(library)
    request = pq.PQcancelCreate(pgconn)
    try:
        while True:
            state = POLL_WRITE if pq.PQcancelStart(request) else None
            while state in (POLL_READ, POLL_WRITE):
                yield pq.PQcancelSocket(request), state
                state = pq.PQcancelPoll(request)
            if state != _DONE:
                raise CancelError(pq.PQcancelErrorMessage(request).decode(errors="replace"))
            yield None
            pq.PQcancelReset(request)
    finally:
        pq.PQcancelFinish(request)


@functools.cache
def _nonblocking(library: ctypes.PyDLL) -> Any:
    for name, result in {
        "PQcancelCreate": c_void_p,
        "PQcancelStart": c_int,
        "PQcancelPoll": c_int,
        "PQcancelSocket": c_int,
        "PQcancelErrorMessage": c_char_p,
        "PQcancelReset": None,
        "PQcancelFinish": None,
    }.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = [c_void_p]
    return library


class _Key:
    """What PQcancel() needs. Freed when neither a request nor a native thread has it any more."""

    def __init__(self, library: ctypes.PyDLL, pgconn: int) -> None:
        get_cancel, self._cancel, self._free = _blocking(library)
        self._key = get_cancel(pgconn)

    def __del__(self) -> None:
        self._free(self._key)

    def ask(self) -> str | None:
        """Ask the server, which blocks; return the text of an error, or None."""
        message = ctypes.create_string_buffer(256)
        if self._cancel(self._key, message, len(message)):
            return None
        return message.value.decode(errors="replace")


def _steps_of_thread(adapter: Adapter, library: ctypes.PyDLL, pgconn: int) -> _Steps:
    key = _Key(library, pgconn)
    while True:
        yield from _steps_of_job(adapter, key)
        yield None


def _steps_of_job(adapter: Adapter, key: _Key) -> _Steps:
    ended, end = os.pipe()
    errors: list[str | None] = []

    def ask() -> None:
        try:
            errors.append(key.ask())
        finally:
            os.close(end)

    try:
        _jobs.append(ask)
        try:
            _start_worker(adapter)
            yield ended, POLL_READ
        finally:
            # *ask* is still there if no thread could be started, or if the request ended before its turn.
            try:
                _jobs.remove(ask)
            except ValueError:
                pass
            else:
                os.close(end)
    finally:
        os.close(ended)
    if errors and errors[0] is not None:
        raise CancelError(errors[0])


def _start_worker(adapter: Adapter) -> None:
    """Start a native thread for the jobs, unless MAX_THREADS run already."""
    if len(_workers) < MAX_THREADS:
        worker = object()
        _workers.add(worker)
        try:
            adapter.start_thread(_work, worker)
        except BaseException:
            _workers.discard(worker)
            if not _workers:
                raise


def _work(worker: object) -> None:
    # Without a lock, because monkey-patching may have replaced it by the hub's. A
    # greenlet appends its job before it counts the threads. A thread looks for jobs
    # once more after it has left the count. So no job stays without a thread.
    try:
        while _jobs:
            while _jobs:
                with contextlib.suppress(IndexError, OSError):
                    _jobs.popleft()()
            _workers.discard(worker)
            if _jobs:
                _workers.add(worker)
    finally:
        _workers.discard(worker)


def _forget_threads() -> None:
    _jobs.clear()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@functools.cache
def _blocking(library: ctypes.PyDLL) -> tuple[Any, Any, Any]:
    # A CFUNCTYPE releases the GIL for the call; the functions of a PyDLL keep it.
    get_cancel = ctypes.PYFUNCTYPE(c_void_p, c_void_p)(("PQgetCancel", library))
    cancel = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)(("PQcancel", library))
    free_cancel = ctypes.PYFUNCTYPE(None, c_void_p)(("PQfreeCancel", library))
    return get_cancel, cancel, free_cancel
