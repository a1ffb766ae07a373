"""What the tests need of a coroutine library."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet
from support.outcomes import Outcome
from support.tickers import Ticker
from support.waiting import PATIENCE, wait_until


class Task(Outcome):
    """A function that runs in a greenlet of its own."""

    greenlet: Any

    def start(self) -> None:
        """Schedule the greenlet. It runs when the caller waits."""
        raise NotImplementedError

    def wait(self, timeout: float | None = PATIENCE) -> Any:
        """Wait until the function ends; return its result or raise its exception.

        Raises:
            AssertionError: The function did not end within *timeout* seconds.
        """
        self.join(timeout)
        return self.get()

    def join(self, timeout: float | None = PATIENCE) -> None:
        """Wait until the function returns or raises."""
        raise NotImplementedError

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        """Throw *exc* into the greenlet, by default GreenletExit. The greenlet may run only later."""
        raise NotImplementedError


class Hub:
    """What the tests need of a coroutine library."""

    name: str
    #: The library's class of Task.
    task_type: type[Task]
    #: The exception with which the library kills a greenlet.
    Kill: type[BaseException] = greenlet.GreenletExit
    #: Whether later functions may run in the greenlet of one that has ended.
    keeps_greenlets = False
    #: The library's Timeout class.
    Timeout: Any
    #: The adapter module, such as psycogreen.gevent.
    adapter: Any
    #: The adapter's wait callback.
    wait_callback: Callable[..., None]

    def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
        """Schedule *fn* in a new greenlet. It runs when the caller waits."""
        task = self.task_type(fn, *args)
        task.start()
        return task

    def sleep(self, seconds: float = 0) -> None:
        """Let other greenlets run for that time."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the hub of this thread or None; never make one."""
        raise NotImplementedError

    def watched(self) -> int:
        """Return how many watchers, listeners and timers the hub holds."""
        raise NotImplementedError

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        """Make the hub call *fn* in its own greenlet."""
        raise NotImplementedError

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        """Call the library's own wait function, as a user would."""
        raise NotImplementedError

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = PATIENCE) -> Any:
        """Run *fn* in a greenlet; return its result or raise its exception."""
        return self.spawn(fn, *args).wait(timeout)

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Let other greenlets run until *condition* returns something true; return that.

        Raises:
            AssertionError: *condition* did not hold within *timeout* seconds.
        """
        return wait_until(condition, timeout, lambda: self.sleep(0.002))

    def end(self) -> None:
        """Close what this thread's hub holds open."""

    def program(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Start the library and run *fn* so that it can wait, as the main greenlet can on other hubs."""
        return fn(*args)

    def run_in_hub(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in the hub's own greenlet; return its result or raise its exception."""
        outcome = Outcome(fn, *args)
        self.call_soon(outcome.run)
        self.wait_until(lambda: outcome.done)
        return outcome.get()

    def switch(self, task: Task, value: object = None) -> None:
        """Make the hub switch into *task*'s greenlet, as a stray wake-up would."""
        self.call_soon(task.greenlet.switch, value)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in a native thread without a hub, while this hub runs on."""
        return self.run_in_threads(1, fn, *args)[0]

    def run_in_threads(self, count: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Run *fn* in *count* native threads at the same time, while this hub runs on; return the results."""
        outcomes = [Outcome(fn, *args) for _ in range(count)]
        threads = [threading.Thread(target=outcome.run, daemon=True) for outcome in outcomes]
        for thread in threads:
            thread.start()
        self.wait_until(lambda: not any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()
        return [outcome.get() for outcome in outcomes]

    @contextmanager
    def ticker(self, interval: float = 0.01) -> Iterator[Ticker]:
        """Yield a Ticker, which counts how often the hub runs another greenlet in this block."""
        ticker = Ticker()
        task = self.spawn(ticker.run, self.sleep, interval)
        self.sleep(0)
        try:
            yield ticker
        finally:
            ticker.stop()
            task.join()
