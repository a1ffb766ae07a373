"""The suite: one pytest process runs with one hub and one loop.

PSYCOGREEN_TEST_HUB names the hub, gevent or eventlet; the loop is the one
that psycogreen chooses (PSYCOGREEN_NO_EXTENSIONS=1 makes it the pure one).
``run_matrix.py`` runs all combinations. The process itself runs in the main
greenlet: what is to run beside others, tests spawn into the hub.
"""

import gc
import signal

import pytest

# As in the tests themselves, an assert there says what it compared.
pytest.register_assert_rewrite("hubs", "support")

pytest_plugins = (
    "fix_postgres",
    "fix_hub",
    "fix_connect",
    "fix_copy",
    "fix_fake",
    "fix_faults",
    "fix_application_server",
    "fix_reactor",
)

# A shell ignores SIGINT in its background jobs, and their child processes inherit
# that. Some tests send it, to this process or to a program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Hide from the garbage collector the objects that the tests are made of.

    They outnumber all others, and many tests collect garbage, or look through
    all objects, again and again.
    """
    gc.collect()
    gc.freeze()
