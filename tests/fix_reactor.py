"""Connections that the reactor knows, and the reactor's watches that ended."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from hubs.contract import Hub
from support.fake_connections import Pipe


@pytest.fixture
def pipe(hub: Hub) -> Iterator[Callable[..., Any]]:
    """Make pipes of the class *kind* that the reactor knows: their first wait has ended."""
    with ExitStack() as opened:

        def make(kind: type[Pipe] = Pipe) -> Any:
            pipe = opened.enter_context(closing(kind()))
            for _ in range(2):
                task = hub.spawn(hub.wait_callback, pipe)
                hub.sleep(0)
                pipe.answer()
                task.wait()
            pipe.polls = 0
            return pipe

        yield make


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Hide the objects that exist already from gc.collect(), which the test calls often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def ended_watches(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The watches that ended during the test. If there are none, the reactor has not rebuilt its epoll instance."""
    stop, ended = hub.adapter._Watch.stop, []

    def stopped(watch: Any) -> None:
        ended.append(watch)
        stop(watch)

    monkeypatch.setattr(hub.adapter._Watch, "stop", stopped)
    return ended
