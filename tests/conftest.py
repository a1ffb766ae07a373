"""The suite: one pytest process runs with one hub and one loop.

PSYCOGREEN_TEST_HUB names the hub, gevent or eventlet; the loop is the one
that psycogreen chooses (PSYCOGREEN_NO_EXTENSIONS=1 makes it the pure one).
``run_matrix.py`` runs all combinations. The process itself runs in the main
greenlet: what is to run beside others, tests spawn into the hub.
"""

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
