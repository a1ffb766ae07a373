"""The child of a fork shares the parent's epoll instances in the kernel, and has copies of its greenlets."""

import os

import pytest
from hubs import EVENTLET_ON_ASYNCIO, NAME, ON_ASYNCIO_LOOP
from support.processes import run_program
from support.tickers import SLEEP_TAKES

import psycogreen

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]

# Conditions of some tests.
reactor_only = pytest.mark.skipif(psycogreen.implementation == "python", reason="a hub's watchers are in its child too")
replaceable_hub = pytest.mark.skipif(
    EVENTLET_ON_ASYNCIO, reason="asyncio's loop can't run within a loop, so this hub can't be replaced"
)
loop_in_a_child = pytest.mark.skipif(ON_ASYNCIO_LOOP, reason="no loop of asyncio's runs in the child of a fork")


@replaceable_hub
def test_parent_and_child_go_on_after_a_fork(dsn):
    assert run_program("fork_parent_and_child", DSN=dsn) == "child 0"


@reactor_only
@replaceable_hub
def test_a_child_is_not_woken_by_answers_to_the_parent(dsn):
    assert float(run_program("fork_sleeping_child", DSN=dsn)) < SLEEP_TAKES


@reactor_only
@loop_in_a_child
def test_a_child_is_not_woken_where_its_parent_has_several_hubs(dsn):
    assert float(run_program("fork_beside_several_hubs", DSN=dsn)) < SLEEP_TAKES


@pytest.mark.skipif(psycogreen.poller != "epoll", reason="no epoll here")
def test_a_child_has_no_more_epoll_instances_than_its_parent(dsn):
    run_program("fork_epoll_instances", DSN=dsn)


def test_a_closed_descriptor_that_a_child_holds_keeps_no_hub_busy(dsn):
    assert float(run_program("fork_child_holds_descriptor", DSN=dsn)) < SLEEP_TAKES


@pytest.mark.skipif(psycogreen.implementation == "python", reason="libev, which then does the same, gives up")
@pytest.mark.skipif(os.environ.get("PSYCOGREEN_TEST_LOOP") == "uvloop", reason="uvloop needs descriptors to run at all")
def test_queries_go_on_where_no_descriptor_is_free_for_epoll(dsn):
    assert run_program("no_free_descriptor", DSN=dsn) == "answered"


@pytest.mark.skipif(NAME == "asyncio", reason="no loop of asyncio's runs in the child of a fork")
def test_a_reactor_replaced_in_its_own_dispatch_is_not_freed_there(dsn):
    assert run_program("fork_replaced_reactor", DSN=dsn, PYTHONMALLOC="debug") == "ended"


@loop_in_a_child
def test_a_child_can_wait_in_the_dispatch_of_its_parent(dsn):
    assert run_program("fork_wait_in_dispatch", DSN=dsn) == "4"


@pytest.mark.skipif(psycogreen.implementation == "python", reason="no batches here")
@loop_in_a_child
def test_a_child_wakes_no_greenlet_of_its_parent(dsn):
    assert run_program("fork_in_batch", DSN=dsn) == "woken"
