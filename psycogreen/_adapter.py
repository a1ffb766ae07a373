"""What the wait loops ask of a coroutine library."""

from collections.abc import Callable
from typing import Any, Protocol


class Adapter(Protocol):
    """One library's hub, as an adapter describes it.

    An adapter makes a single, stateless instance: what is particular to a
    thread is asked for at each wait, because hubs come and go.
    """

    def current(self) -> Any:
        """Return the hub of this thread, or None; never make one."""

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
        """Return a context manager that is thrown, itself, into its greenlet when *seconds* have passed."""

    def getaddrinfo(self, host: str) -> list[Any]:
        """Return what ``socket.getaddrinfo()`` does for streams to *host*, but let others run.

        Raises:
            socket.gaierror: *host* can't be resolved.
        """

    def greenlet(self, hub: Any) -> Any:
        """Return the greenlet in which *hub* runs its callbacks, or what stands for it where none is."""

    def call_soon(self, hub: Any, fn: Callable[..., object], *args: Any) -> None:
        """Have *hub* call *fn* in its own greenlet, as soon as it can.

        This wakes a hub that sleeps: a signal handler, a method ``__del__`` or
        another native thread may call it.
        """

    def wait_for_ever(self) -> None:
        """Park the running greenlet; nothing is to wake it, but something may."""

    def pause(self) -> None:
        """Let the other greenlets and the calls of *call_soon* run once."""

    def start_thread(self, fn: Callable[..., object], *args: Any) -> None:
        """Call *fn* in a new native thread, also when *threading* is patched."""

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call *fn* in a native thread of a pool, parked meanwhile; return or raise what it does."""


class ReactorAdapter(Adapter, Protocol):
    """A hub that can also carry the compiled loop's reactor."""

    def switch(self, hub: Any) -> Any:
        """Switch to *hub* in its own way; return what it is left with."""

    def watch(self, hub: Any, fd: int, callback: Callable[..., object]) -> "Watch":
        """Have *hub* call *callback* whenever *fd* can be read."""

    def handle_error(self, hub: Any, exc: BaseException) -> None:
        """Report *exc*, which ended a greenlet, as *hub* reports others.

        Raise it again if *hub* would let it pass through its loop.
        """

    def stray_switch(self, hub: Any, result: object) -> None:
        """Somebody else switched into a parked greenlet, with *result*.

        Raise what *hub* raises then, or return if it takes it for a wake-up.
        """


class GuestAdapter(ReactorAdapter, Protocol):
    """A hub in whose greenlets another library may wait, too."""

    #: The type of the greenlets that are its own: others don't switch to it directly.
    greenlet_type: type

    def adopt_greenlet(self, hub: Any) -> Any:
        """Return the running greenlet, after it has become the one in which *hub* runs its callbacks."""

    def can_throw_into(self, hub: Any, greenlet: Any) -> bool:
        """Tell whether *greenlet*, which is in a query, waits for what is ours, or for something of that library's."""


class Watch(Protocol):
    """A descriptor under watch."""

    def set_ref(self, awaited: bool) -> None:
        """Keep the hub's loop running for this watch while *awaited*."""

    def stop(self) -> None:
        """End the watch."""
