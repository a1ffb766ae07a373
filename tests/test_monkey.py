"""Queries overlap with the standard library patched or not, in any order of imports."""

import pytest
from hubs import NAME
from support.processes import run_program

if NAME == "asyncio":
    pytest.skip("asyncio patches nothing", allow_module_level=True)

ORDERS = [
    ["green"],
    ["psycopg2", "green"],
    ["patch", "green"],
    ["patch", "psycopg2", "green"],
    ["psycopg2", "patch", "green"],
    ["psycogreen", "patch", "green"],
    ["psycogreen", "psycopg2", "patch", "green"],
    ["green", "patch"],
    ["psycopg2", "green", "patch"],
]
if NAME == "eventlet":
    ORDERS += [
        ["eventlet's", "green"],
        ["psycogreen", "eventlet's", "green"],
        ["psycopg2", "psycogreen", "eventlet's", "green"],
        ["green", "eventlet's"],
    ]


# With one of the two loops, except in the order that the documents tell.
BY_LOOP = [pytest.param(order, marks=[pytest.mark.one_loop] * (order != ["patch", "green"])) for order in ORDERS]


@pytest.mark.parametrize("order", BY_LOOP, ids=" then ".join)
def test_queries_overlap_whatever_the_order(order, dsn):
    assert run_program("patching_order", NAME, *order, DSN=dsn).split() == ["overlapped", "None"]


def test_a_native_thread_works_although_threads_are_patched():
    assert run_program("native_thread", NAME) == "True"
