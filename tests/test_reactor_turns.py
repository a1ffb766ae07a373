"""The reactor reads large results in few turns of the hub, and delays no other greenlet."""

import select
import time

import pytest
from support.fake_connections import Pipe

import psycogreen

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]


def test_large_results_delay_no_other_greenlet(hub, connect):
    def read():
        cursor = connect().cursor()
        cursor.execute("SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
        return sum(len(row[0]) for row in cursor)

    with hub.ticker(0.005) as ticker:
        tasks = [hub.spawn(read) for _ in range(4)]
        assert [task.wait() for task in tasks] == [50_000_000] * 4
    assert ticker.ticks > 20


def test_many_large_results_delay_no_other_greenlet(hub, pipe):
    def read_on():
        # Until the end, there is always more to read.
        return 1 if time.process_time() < end else 0

    pipes = [pipe() for _ in range(40)]
    for large in pipes:
        large.poll = read_on
        large.answer()
    end = time.process_time() + 0.5  # CPU time: other processes do not count
    with hub.ticker(0.001) as ticker:
        for task in [hub.spawn(hub.wait_callback, large) for large in pipes]:
            task.wait()
    # It would be 12 if each large result took a time slice of its own.
    assert ticker.ticks > 30


class Large(Pipe):
    """A pipe whose answer comes in many pieces, one a poll."""

    def __init__(self):
        super().__init__()
        #: How many polls had nothing to read.
        self.futile = 0
        #: Called at each poll.
        self.each = lambda: None

    def poll(self):
        self.polls += 1
        self.each()
        try:
            return 0 if self.mine.recv(1) == b"x" else 1
        except BlockingIOError:
            self.futile += 1
            return 1

    def piece(self, count=1):
        self.theirs.send(b"." * count)


@pytest.fixture
def large(hub, pipe):
    """A large result under way, whose greenlet is parked."""
    result = pipe(Large)
    task = hub.spawn(hub.wait_callback, result)
    hub.wait_until(lambda: result.polls)
    result.polls = result.futile = 0
    yield result
    result.each = lambda: None
    result.answer()
    task.wait()


def read_by(hub, large, polls):
    """Wait until *large* was polled *polls* times and its greenlet has parked again."""
    hub.wait_until(lambda: large.polls >= polls and not select.select([large], [], [], 0)[0])


def test_few_polls_of_a_large_result_are_futile(hub, large):
    for _ in range(10):
        # After many polls with data, the loop polls for a while without asking whether there is more.
        polls = large.polls
        large.piece(1000)
        read_by(hub, large, polls + 1000)
        assert large.futile <= 7
        # But at the beginning of the next time slice it asks.
        for pieces, futile in (1, 0), (2, 1):
            large.futile = 0
            polls = large.polls
            large.piece(pieces)
            read_by(hub, large, polls + pieces)
            assert large.futile <= futile
        large.futile = 0


def test_no_poll_is_futile_after_a_large_result_has_yielded(hub, large):
    def take_the_turn():
        begun = time.monotonic()
        while time.monotonic() - begun < 0.002:
            pass

    for _ in range(3):
        polls = large.polls
        large.each = take_the_turn
        large.piece(2)
        read_by(hub, large, polls + 2)
        large.each = lambda: None
        large.futile = 0
        large.piece()
        read_by(hub, large, polls + 3)
        assert large.futile == 0


def test_slow_polls_delay_no_other_greenlet(hub, large):
    in_turns = [0]

    def note():
        in_turns[-1] += 1
        begun = time.monotonic()
        while time.monotonic() - begun < 0.002:
            pass

    large.each = note
    large.piece(50)
    while large.polls < 50:
        hub.sleep(0)
        in_turns.append(0)
    assert max(in_turns) <= 2


@pytest.mark.skipif(psycogreen.implementation == "python", reason="it parks for each piece")
def test_a_large_result_is_read_in_one_time_slice(hub, large):
    turns = 0
    seen = []
    large.each = lambda: seen.append(turns)
    # Tried again because other processes on the processor can use up the time slice.
    for turn in range(50):
        polls = large.polls
        seen.clear()
        large.piece(20)
        while large.polls < polls + 20:
            hub.sleep(0)
            turns += 1
        if turn and len(set(seen[:20])) == 1:
            break
        read_by(hub, large, polls + 20)
    else:
        pytest.fail("each piece had a turn of its own")
