"""Events fetched in one batch: whatever one greenlet does, the other greenlets of the batch go on."""

import gc
import os

import greenlet
import psycopg2
import pytest
from support.fake_connections import Pipe

import psycogreen

pytestmark = [pytest.mark.hub, pytest.mark.timeout(60)]


def test_an_event_of_a_replaced_socket_wakes_nobody(hub, pipe):
    first, second, third = pipe(), pipe(), pipe()

    def replace():
        hub.wait_callback(first)
        # The reactor has already fetched the event of the second socket. Now its
        # descriptor refers to a silent socket, for which this greenlet waits.
        os.dup2(third.fd, second.fd)
        third.fd = second.fd
        hub.wait_callback(third)

    task = hub.spawn(replace)
    hub.sleep(0)
    first.answer()
    second.answer()
    hub.wait_until(lambda: third.polls)
    for _ in range(5):
        hub.sleep(0)
    assert third.polls == 1
    third.answer()
    task.wait()
    assert third.polls == 2


def test_a_batch_continues_after_its_greenlets_free_connections(hub, green, dsn, quick_collections):
    def use(number):
        for _ in range(20):
            try:
                cursor = psycopg2.connect(dsn).cursor()
                for _ in range(3):
                    cursor.execute("SELECT pg_sleep(0.001)")
                if number % 2:
                    tasks[number - 1].kill(psycopg2.InterfaceError("killed"))
                del cursor
                gc.collect()
            except psycopg2.InterfaceError:
                pass

    tasks = [hub.spawn(use, number) for number in range(8)]
    for number, task in enumerate(tasks):
        task.join()
        if number % 2:
            task.wait()


def test_a_greenlet_that_dies_in_the_dispatch_delays_no_other(hub, pipe, capfd):
    pipes = [pipe() for _ in range(6)]
    woken = []

    def run(number):
        hub.wait_callback(pipes[number])
        woken.append(number)
        if number % 2:
            raise ValueError(f"from number {number}")

    loop = hub.run_in_hub(greenlet.getcurrent)
    for number in range(6):
        hub.call_soon(greenlet.greenlet(run, loop).switch, number)
    hub.sleep(0.01)
    for ready in pipes:
        ready.answer()
    hub.wait_until(lambda: len(woken) == 6)
    reported = capfd.readouterr().err
    assert [number for number in range(6) if f"from number {number}" in reported] == [1, 3, 5]
    # The reactor still works.
    task = hub.spawn(hub.wait_callback, pipes[0])
    hub.sleep(0)
    pipes[0].answer()
    task.wait()


def test_sockets_closed_in_their_own_batch_leave_no_event(hub, pipe, ended_watches):
    waited, other = pipe(), pipe()

    def wait_and_close(closed):
        hub.wait_callback(waited)
        closed.mine.close()

    for _ in range(4):
        waited.polls, closed = 0, pipe()
        task = hub.spawn(wait_and_close, closed)
        hub.wait_until(lambda: waited.polls)
        waited.answer()
        closed.answer()
        task.wait()
        # And a pipe that stays open.
        other.polls = 0
        task = hub.spawn(hub.wait_callback, other)
        hub.wait_until(lambda: other.polls)
        other.answer()
        task.wait()
    assert not ended_watches  # the reactor did not need a new epoll instance


class AnsweredAtOnce(Pipe):
    """A pipe that is answered between the poll that finds nothing and the park."""

    def poll(self):
        state = super().poll()
        if state:
            self.answer()
        return state


@pytest.mark.skipif(psycogreen.implementation == "python", reason="each wait takes a turn of the hub")
def test_answers_that_have_come_by_the_end_of_a_batch_need_no_turn_of_the_hub(hub, pipe):
    turns = 0

    def use(conn, seen):
        for _ in range(3):
            hub.wait_callback(conn)
            seen.append(turns)

    pipes = [pipe(AnsweredAtOnce) for _ in range(4)]
    # Tried again because other processes on the processor can use up the time slice.
    for _ in range(50):
        seen = [[] for _ in pipes]
        tasks = [hub.spawn(use, *each) for each in zip(pipes, seen, strict=True)]
        while not all(len(each) == 3 for each in seen):
            hub.sleep(0)
            turns += 1
        for task in tasks:
            task.wait()
        if any(len(set(each)) < 3 for each in seen):
            return
    pytest.fail("each answer had a turn of its own")


@pytest.mark.skipif(psycogreen.implementation == "python", reason="each wait takes a turn of the hub")
def test_greenlets_that_are_answered_at_once_delay_no_other_greenlet(hub, pipe):
    def use(conn):
        while not done:
            hub.wait_callback(conn)

    done = []
    tasks = [hub.spawn(use, pipe(AnsweredAtOnce)) for _ in range(8)]
    with hub.ticker(0.001) as ticker:
        hub.wait_until(lambda: ticker.ticks > 20)
    done.append(True)
    for task in tasks:
        task.wait()
