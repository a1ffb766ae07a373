"""The suite. One pytest process runs with one hub and one wait loop.

PSYCOGREEN_TEST_HUB names the hub: gevent, eventlet or asyncio. psycogreen chooses the
loop: with PSYCOGREEN_NO_EXTENSIONS=1 the pure one. ``run_matrix.py`` runs all
combinations. A test runs in the main greenlet, and spawns other greenlets into the hub.
"""

import gc
import signal

import pytest

# In these packages too, a failed assert shows the values that it compared.
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
    """Hide the objects of pytest and of the tests' modules from the garbage collector.

    They are more than all others, and many tests collect garbage or look through all
    objects again and again.
    """
    gc.collect()
    gc.freeze()
