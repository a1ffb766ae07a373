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


_module = None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before each module, hide what is there already from the garbage collector.

    Nearly all of it is pytest's: the modules, and the reports of earlier tests. Many
    tests collect garbage or look through all objects again and again.
    """
    global _module
    if item.path != _module:
        _module = item.path
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module")
def all_objects() -> None:
    """Show the garbage collector the objects of earlier modules: among them are the hub's own watchers."""
    gc.unfreeze()
