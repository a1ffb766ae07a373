"""The compiled loop and its pure twin, given the same random actions and compared step by step.

The connections are fakes with real socket pairs, on the real hub. After each action
the hub runs until no greenlet can go on. The trace records every poll, result and
error that a caller or a connection could notice.
"""

import gc
import os

import pytest
from hubs import NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE
from support.fake_connections import FakeConnection
from support.leaks import descriptors

from psycogreen import _waitloop_py

_waitloop = pytest.importorskip("psycogreen._waitloop", reason="the compiled loop is not built")

pytestmark = pytest.mark.skipif(
    os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"), reason="the run without it compares the same"
)

CONNECTIONS = 4


class Error(Exception):
    pass


class BaseError(BaseException):
    pass


THROWN = {"Error": Error, "BaseError": BaseError, "KeyboardInterrupt": KeyboardInterrupt, "TimeoutError": TimeoutError}


class Connection(FakeConnection):
    """A fake that records its polls in the trace."""

    def __init__(self, name, trace):
        super().__init__()
        self.name, self.trace = name, trace

    def poll(self):
        try:
            result = super().poll()
        except BaseException as exc:
            self.trace.append((self.name, "poll raises", repr(exc)))
            raise
        self.trace.append((self.name, "poll", repr(result)))
        return result

    def take(self):
        """Read what the peer sent, as libpq does before it returns."""
        self.socket.setblocking(False)
        try:
            self.drain()
        except OSError:
            pass


class Life:
    """Some connections, and the greenlets that wait for them."""

    def __init__(self, hub, decorate, timeout):
        self.hub = hub
        self.trace = []
        self.tasks = {}
        self.callback = decorate
        self.timeout = timeout
        self.connections = [Connection(number, self.trace) for number in range(CONNECTIONS)]

    def act(self, action, number, argument):
        getattr(self, action)(number, argument)

    def query(self, number, script):
        """Start to wait for connection *number*, unless a task already waits."""
        if number in self.tasks:
            return
        connection = self.connections[number]
        connection.polls = 0
        connection.script = [self.step(connection, *step) for step in script]
        arguments = () if self.timeout is None else (self.timeout,)
        self.tasks[number] = self.hub.spawn(self.callback, connection, *arguments)

    def step(self, connection, kind, argument):
        def poll():
            connection.take()
            if kind == "result":
                return argument
            if kind == "raise":
                return THROWN[argument]("from poll")
            if kind == "close":  # of another connection, during this poll
                self.close(argument, None)
            elif kind == "answer":
                self.answer(argument, None)
            elif kind == "kill":
                if argument != connection.name:
                    self.kill(argument, "Error")
            return POLL_READ

        return poll

    def answer(self, number, _):
        try:
            self.connections[number].answer()
        except OSError:
            pass  # its peer is closed

    def waits(self, number):
        # To kill a greenlet that has not started yet would test the hub, not the loop.
        return number in self.tasks and not self.tasks[number].done and self.connections[number].polls

    def kill(self, number, kind):
        if self.waits(number):
            self.tasks[number].kill(THROWN[kind]("thrown"))

    def stray(self, number, _):
        if self.waits(number):
            self.hub.switch(self.tasks[number], "stray")

    def hang_up(self, number, _):
        self.connections[number].peer.close()

    def close(self, number, _):
        """Close the connection, if no task waits for it, and open another, which gets its descriptor."""
        if number in self.tasks:
            return
        self.connections[number].close()
        self.connections[number] = Connection(number, self.trace)

    def together(self, number, actions):
        """Do several actions before the hub runs again."""
        for action in actions:
            self.act(*action)

    def wait(self, number, seconds):
        self.hub.sleep(seconds)

    def settle(self):
        quiet = 0
        length = -1
        while quiet < 3:
            self.hub.sleep(0.001)  # libuv sleeps no shorter
            quiet = quiet + 1 if len(self.trace) == length else 0
            length = len(self.trace)

    def collect(self):
        """Record the tasks that are done, and their results."""
        for number, task in sorted(self.tasks.items()):
            if task.done:
                try:
                    self.trace.append((number, "returned", task.wait()))
                except BaseException as exc:  # noqa: BLE001
                    self.trace.append((number, "raised", type(exc).__name__, message(exc)))
                del self.tasks[number]
        # Sockets that become ready at the same moment are reported in any order.
        step = sorted(self.trace, key=lambda entry: entry[0])
        self.trace.clear()
        return [*step, ("waiting", sorted(self.tasks))]

    def live(self, actions, warm):
        steps = []
        if warm:
            # The reactor has records only of connections that it has served before.
            for number in range(CONNECTIONS):
                self.query(number, [("result", POLL_OK)])
            self.settle()
            steps.append(("warm", self.collect()))
        for action in actions:
            self.act(*action)
            self.settle()
            steps.append((action, self.collect()))
        # Kill the tasks that still wait.
        for number in list(self.tasks):
            self.kill(number, "Error")
        self.settle()
        steps.append(("end", self.collect()))
        for connection in self.connections:
            connection.close()
        return steps


def message(exc):
    # gevent's message shows objects that differ from run to run.
    return "" if type(exc).__name__ == "InvalidSwitchError" else str(exc)


numbers = st.integers(0, CONNECTIONS - 1)
polls = st.one_of(
    st.tuples(st.just("result"), st.sampled_from([POLL_READ, POLL_READ, POLL_READ, POLL_WRITE])),
    st.tuples(st.just("result"), st.sampled_from([POLL_OK, 7, None])),
    st.tuples(st.just("raise"), st.sampled_from(sorted(THROWN))),
    st.tuples(st.sampled_from(["close", "answer", "kill"]), numbers),
)
scripts = st.lists(polls, max_size=5)
actions = st.one_of(
    st.tuples(st.just("query"), numbers, scripts),
    st.tuples(st.just("query"), numbers, scripts),
    st.tuples(st.just("answer"), numbers, st.none()),
    st.tuples(st.just("answer"), numbers, st.none()),
    st.tuples(st.just("kill"), numbers, st.sampled_from(sorted(THROWN))),
    st.tuples(st.sampled_from(["stray", "hang_up", "close"]), numbers, st.none()),
)
togethers = st.tuples(st.just("together"), st.just(0), st.lists(actions, min_size=2, max_size=6))
lives = st.lists(st.one_of(actions, togethers), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def twins(hub):
    """Both loops over the adapter of this run."""
    adapter = {"gevent": "_Gevent", "eventlet": "_Eventlet", "asyncio": "_Asyncio"}[NAME]
    stub = hub.wait_callback.__wrapped__
    return [loop.wait_callback(getattr(hub.adapter, adapter)())(stub) for loop in (_waitloop_py, _waitloop)]


def compare(twins, hub, actions, timeout=None, warm=True):
    pure, compiled = (Life(hub, callback, timeout).live(actions, warm) for callback in twins)
    for step_of_pure, step_of_compiled in zip(pure, compiled, strict=True):
        assert step_of_compiled == step_of_pure


common = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@settings(common, max_examples=80)
@given(actions=lives, warm=st.booleans())
def test_both_loops_make_the_same_calls(actions, warm, twins, hub):
    compare(twins, hub, actions, None, warm)


@settings(common, max_examples=15)
@given(actions=lives, limit=st.sampled_from([5, -1, "garbage"]))
def test_both_loops_make_the_same_calls_with_a_timeout(actions, limit, twins, hub):
    compare(twins, hub, actions, limit)


@pytest.mark.parametrize("limit", [0.004, 0, -1])
@pytest.mark.parametrize("state", [POLL_READ, POLL_WRITE])
def test_a_timeout_raises_alike_in_both_loops(state, limit, twins, hub):
    # In one step: the turn of the hub in which the timeout expires depends on the clock.
    actions = [("together", 0, [("query", 0, [("result", state)] * 3), ("wait", 0, 0.1)])]
    compare(twins, hub, actions, limit)


def test_both_loops_leave_nothing_behind(twins, hub):
    actions = [("query", n, [("result", POLL_READ)] * 3) for n in range(CONNECTIONS)] * 3
    actions += [("answer", n, None) for n in range(CONNECTIONS)] * 5
    actions += [("kill", 1, "Error"), ("hang_up", 2, None)]
    compare(twins, hub, actions)
    gc.collect()
    before = hub.watched(), len(descriptors()), len(gc.get_objects())
    for _ in range(5):
        compare(twins, hub, actions)
    gc.collect()
    after = hub.watched(), len(descriptors()), len(gc.get_objects())
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 20
