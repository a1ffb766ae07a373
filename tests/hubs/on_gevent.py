"""The hub of tests on gevent."""

import gc
import os
from collections.abc import Callable
from typing import Any

import gevent
import gevent.hub
import gevent.socket
from gevent._hub_local import get_hub_if_exists

import psycogreen.gevent
from hubs.contract import PATIENCE, Hub, Task


class GeventTask(Task):
    def start(self) -> None:
        self.greenlet = gevent.spawn(self.run)

    def join(self, timeout: float | None = PATIENCE) -> None:
        self.greenlet.join(timeout)
        assert self.greenlet.dead, f"{self.greenlet} did not end within {timeout} s"
        if not self.done:  # the greenlet was killed before it ran
            self._exc = self.greenlet.exception or self.greenlet.value

    def kill(self, exc: BaseException | type[BaseException] | None = None) -> None:
        self.greenlet.kill(gevent.GreenletExit if exc is None else exc, block=False)


def watcher_types() -> tuple[type, ...]:
    """Return the types of the loop's watchers."""
    # libuv refuses other descriptors than pipes, sockets and terminals.
    reading, writing = os.pipe()
    loop = gevent.get_hub().loop
    samples = [loop.io(reading, 1), loop.timer(1)]
    types = tuple(type(sample) for sample in samples)
    for sample in samples:
        sample.close()
    os.close(reading)
    os.close(writing)
    return types


class Gevent(Hub):
    name = "gevent"
    task_type = GeventTask
    Timeout = gevent.Timeout
    adapter = psycogreen.gevent
    wait_callback = staticmethod(psycogreen.gevent.gevent_wait_callback)
    sleep = staticmethod(gevent.sleep)
    current = staticmethod(get_hub_if_exists)

    def __init__(self) -> None:
        self._watcher_types = watcher_types()

    def watched(self) -> int:
        # The loop has no list of its watchers.
        gc.collect()  # frees the watchers of earlier tests
        return sum(isinstance(each, self._watcher_types) and each.active for each in gc.get_objects())

    def call_soon(self, fn: Callable[..., Any], *args: Any) -> None:
        gevent.get_hub().loop.run_callback(fn, *args)

    def wait_readable(self, fd: int, timeout: float | None = None) -> None:
        gevent.socket.wait_read(fd, timeout)


make = Gevent
