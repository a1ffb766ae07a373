"""The hubs of the tests: one module for each library. A run uses one of them.

All other modules use a hub only through the methods of hubs.contract.
"""

import functools
import importlib
import os

from hubs.contract import Hub

NAME = os.environ.get("PSYCOGREEN_TEST_HUB", "gevent")

# The environment variables that choose another event loop for a hub.
LOOP_VARIABLE = {"gevent": "GEVENT_LOOP", "eventlet": "EVENTLET_HUB", "asyncio": "PSYCOGREEN_TEST_LOOP"}

EVENTLET_ON_ASYNCIO = NAME == "eventlet" and os.environ.get("EVENTLET_HUB") == "asyncio"
ON_ASYNCIO_LOOP = NAME == "asyncio" or EVENTLET_ON_ASYNCIO


@functools.cache
def make_hub() -> Hub:
    """Return the hub that PSYCOGREEN_TEST_HUB names."""
    return importlib.import_module(f"hubs.on_{NAME}").make()
