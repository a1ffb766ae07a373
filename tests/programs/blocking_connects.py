"""Connects with blocking psycopg2, once for each line of its input: a DSN and an environment, as JSON.

Prints each outcome as JSON. The process resolves the tests' host names with an
/etc/hosts of its own: see fix_faults.py.
"""

import dataclasses
import json
import os
import sys

import psycopg2
from support.attempts import attempt

for request in sys.stdin:
    dsn, environment = json.loads(request)
    # Each in a child, because libpq keeps parts of the environment.
    if os.fork() == 0:
        os.environ.clear()
        os.environ.update(environment)
        outcome = attempt(lambda dsn=dsn: psycopg2.connect(dsn))
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)
        os._exit(0)
    os.wait()
