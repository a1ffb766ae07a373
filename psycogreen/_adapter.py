"""The contract of the adapters: the functions that psycogreen needs of a coroutine library."""

from collections.abc import Callable
from typing import Any, Protocol


class Adapter(Protocol):
    """One coroutine library.

    It may have an attribute `timeout_type`: the type of *timeout* for wait_read()
    and the like, where they must tell that of make_psycopg_green() from others. And
    `thread_local`, an object of the native class ``_thread._local``, where hubs end with
    their thread and tell nobody.

    An adapter module makes a single instance without state: hubs come and go, so
    each wait asks for the hub of the running thread anew.
    """

    def current(self) -> Any:
        """Return the hub of this thread, or None. Never make one."""

    def wait_read(self, fd: int, timeout: Any) -> None:
        """Park the running greenlet until *fd* can be read."""

    def wait_write(self, fd: int, timeout: Any) -> None:
        """Park the running greenlet until *fd* can be written."""

    def wait_readwrite(self, fd: int, timeout: Any) -> None:
        """Park the running greenlet until *fd* can be read or written."""

    def timeout_seconds(self, timeout: Any) -> float | None:
        """Return the seconds that the wait callback's *timeout* stands for, None for no limit."""

    def poll(self) -> Any:
        """Return a ``select.poll`` object, also when *select* is patched."""

    def wait(self, fd: int, state: int, seconds: float | None) -> None:
        """Park until *fd* is ready; *state* is POLL_READ or POLL_WRITE.

        Raises:
            TimeoutError: It took longer than *seconds*; None is no limit.
        """

    def timeout(self, seconds: float) -> Any:
        """Return a context manager that limits its block to *seconds*.

        It is an exception too, and throws itself into the greenlet in its block.
        """

    def getaddrinfo(self, host: str) -> list[Any]:
        """Return what ``socket.getaddrinfo()`` returns for streams to *host*; let others run meanwhile.

        Raises:
            socket.gaierror: *host* can't be resolved.
        """

    def forget(self, fd: int) -> None:
        """Take *fd* out of the kernel's list of what this thread's hub watches, if it is still there.

        Nothing waits for *fd* any more. It is about to be closed, while its socket stays open
        under another number.
        """

    def greenlet(self, hub: Any) -> Any:
        """Return the greenlet in which *hub* runs its callbacks.

        A library without greenlets returns the object that stands for it.
        """

    def call_soon(self, hub: Any, fn: Callable[..., object], *args: Any) -> None:
        """Make *hub* call *fn* in the hub's greenlet, as soon as it can.

        This wakes a hub that sleeps: a signal handler, a method ``__del__`` or
        another native thread may call it.
        """

    def wait_for_ever(self) -> None:
        """Park the running greenlet with nothing to wake it. It may return all the same."""

    def pause(self) -> None:
        """Let the other greenlets, and the functions given to call_soon(), run once."""

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        """Call *fn* in a new native thread, also when *threading* is patched."""

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call *fn* in a native thread of a pool, and park meanwhile.

        Return what *fn* returns, or raise what it raises.
        """


class Reader(Protocol):
    """The waits of one connection in one hub, for the pure loop."""

    #: The greenlet in which the hub runs its callbacks.
    hub_greenlet: Any

    def wait(self, me: Any) -> None:
        """Park *me*, the running greenlet and a child of *hub_greenlet*, until the descriptor can be read."""


class ReaderAdapter(Adapter, Protocol):
    """A library in which an object kept for each connection makes its next waits cheaper."""

    def reader(self, fd: int) -> Reader | None:
        """Return an object that waits for *fd* in the hub of this thread, or None.

        The connection keeps the object as long as *fd*. Any thread may free the connection.
        """


class ReactorAdapter(Adapter, Protocol):
    """A library whose hub can carry the compiled loop's reactor."""

    def switch(self, hub: Any) -> Any:
        """Switch to *hub* by the library's own function; return the value that it returns."""

    def watch(self, hub: Any, fd: int, callback: Callable[..., object]) -> "Watch":
        """Make *hub* call *callback* whenever *fd* can be read."""

    def handle_error(self, hub: Any, exc: BaseException) -> None:
        """Report *exc*, which ended a greenlet, as *hub* reports the errors of other greenlets.

        Raise *exc* if *hub* lets such an exception end its loop.
        """

    def stray_switch(self, hub: Any, result: object) -> None:
        """Something other than the reactor switched into a parked greenlet, with *result*.

        Raise the exception that *hub* raises in that case; return if the library
        takes such a switch for a wake-up.
        """


class GuestAdapter(ReactorAdapter, Protocol):
    """A library whose loop also runs greenlets that another library made."""

    #: The type of this library's own greenlets. Only these switch to the hub directly.
    greenlet_type: type

    def adopt_greenlet(self, hub: Any) -> Any:
        """Take the running greenlet for the one in which *hub* runs its callbacks, and return it."""

    def may_wait(self, hub: Any) -> bool:
        """Tell whether the running greenlet may wait: in some, only the other library's functions may."""

    def can_throw_into(self, hub: Any, greenlet: Any) -> bool:
        """Return whether *greenlet*, which is in a query, waits for something of psycogreen's.

        If not, it waits for something of the other library's.
        """


class Watch(Protocol):
    """The hub's watch over one descriptor."""

    def set_ref(self, awaited: bool) -> None:
        """Let this watch keep the hub's loop running, or not: libev calls that a reference."""

    def stop(self) -> None:
        """End the watch."""
