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
        """Start the greenlet; it runs when the caller waits."""
        raise NotImplementedError

    def wait(self, timeout: float | None = PATIENCE) -> Any:
        """Wait until the function ends; return its result or raise its exception.

        Raises:
            AssertionError: It did not end within *timeout* seconds.
        """
        self.join(timeout)
        return self.get()

    def join(self, timeout: float | None = PATIENCE) -> None:
        """Wait until the function ends, whichever way."""
        raise NotImplementedError

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        """Throw *exc* (GreenletExit) into the greenlet, which may not wait for it."""
        raise NotImplementedError


class Hub:
    """What the tests need of a coroutine library."""

    name: str
    #: Its class of Tasks.
    task_type: type[Task]
    #: The exception by which the library kills.
    Kill: type[BaseException] = greenlet.GreenletExit
    #: The library's Timeout class.
    Timeout: Any
    #: The adapter: psycogreen.gevent, for one.
    adapter: Any
    #: The adapter's wait callback.
    wait_callback: Callable[..., None]

    def spawn(self, fn: Callable[..., Any], *args: Any) -> Task:
        """Start *fn* in a new greenlet; it runs when the caller waits."""
        task = self.task_type(fn, *args)
        task.start()
        return task

    def sleep(self, seconds: float = 0) -> None:
        """Let others run for that long."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the hub of this thread or None; never make one."""
        raise NotImplementedError

    def watched(self) -> int:
        """Return how many watchers, listeners and timers the hub holds."""
        raise NotImplementedError

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        """Have the hub call *fn* in its own greenlet."""
        raise NotImplementedError

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        """Call the library's own wait function, as a user would."""
        raise NotImplementedError

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = PATIENCE) -> Any:
        """Run *fn* in a greenlet; return its result or raise its exception."""
        return self.spawn(fn, *args).wait(timeout)

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Let others run until *condition* holds; return what it returned.

        Raises:
            AssertionError: It did not hold within *timeout* seconds.
        """
        return wait_until(condition, timeout, lambda: self.sleep(0.002))

    def end(self) -> None:
        """Leave nothing open in this thread."""

    def program(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn*, from where none of this runs yet, so that it can wait as the main greenlet can."""
        return fn(*args)

    def run_in_hub(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in the hub's own greenlet; return its result or raise its exception."""
        outcome = Outcome(fn, *args)
        self.call_soon(outcome.run)
        self.wait_until(lambda: outcome.done)
        return outcome.get()

    def switch(self, task: Task, value: object = None) -> None:
        """Have the hub switch into *task*'s greenlet out of turn, as a stray wake-up would."""
        self.call_soon(task.greenlet.switch, value)

    def run_in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run *fn* in a native thread that has no hub, while this hub runs on."""
        return self.run_in_threads(1, fn, *args)[0]

    def run_in_threads(self, count: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Do that in *count* threads at once; return the results."""
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
        """Count how often the hub runs another greenlet meanwhile."""
        ticker = Ticker()
        task = self.spawn(ticker.run, self.sleep, interval)
        self.sleep(0)
        try:
            yield ticker
        finally:
            ticker.stop()
            task.join()
