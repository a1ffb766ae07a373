"""The hub of this run. Tests use it without naming the library."""

import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hubs import LOOP_VARIABLE, NAME, make_hub
from hubs.contract import Hub

if NAME == "asyncio":
    from hubs.on_asyncio import event_loops

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(pyfuncitem: Any) -> Iterator[None]:
        """Run the test in a greenlet of an event loop, so that it can wait as the main greenlet can on other hubs.

        A test that is a coroutine gets an event loop of its own.
        """
        test = pyfuncitem.obj
        if inspect.iscoroutinefunction(test):
            pyfuncitem.obj = lambda **kwargs: event_loops().run(test(**kwargs))
        else:
            pyfuncitem.obj = lambda **kwargs: make_hub().program(functools.partial(test, **kwargs))
        try:
            return (yield)
        finally:
            pyfuncitem.obj = test


def pytest_report_header() -> str:
    import psycogreen

    selector = os.environ.get(LOOP_VARIABLE[NAME], "default")
    return f"psycogreen: {psycogreen.implementation} loop on {NAME} ({selector})"


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The hub that PSYCOGREEN_TEST_HUB names."""
    hub = make_hub()
    yield hub
    hub.end()
