"""A child goes on in the batch of events of its parent."""

import os

import psycopg2
from support.fake_connections import Pipe
from unpatched import call_soon, sleep, spawn, wait


def forks():
    wait_callback(pipes[0])
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    call_soon(os._exit, 0)
    # Here the child goes on with the batch of events, in which other()'s event is next.


def other():
    wait_callback(pipes[1])
    if os.getpid() != parent:
        os._exit(1)
    return "woken"


wait_callback = psycopg2.extensions.get_wait_callback()
parent = os.getpid()
pipes = [Pipe() for _ in range(2)]
for pipe in pipes:
    for _ in range(2):
        task = spawn(wait_callback, pipe)
        sleep(0)
        pipe.answer()
        wait(task)
    pipe.polls = 0
tasks = [spawn(forks), spawn(other)]
while not all(pipe.polls for pipe in pipes):
    sleep(0)
for pipe in pipes:
    pipe.answer()
assert wait(tasks[0]) == 0
print(wait(tasks[1]))
