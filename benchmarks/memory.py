"""Bytes that a parked connection takes, above those that the hub takes for a greenlet.

The figure compares greenlets parked in a query with as many greenlets parked in the
hub's own wait for the same sockets. The difference is psycopg2's frames on the C stack,
libpq's copy of the query, and the objects of the wait loop.
"""

import json
import subprocess
import sys

from driver import HERE, environment, main, variants

HEADER = f"{'variant':18} {'above':>7} {'in a query':>11} {'in the hub':>11}"


def rows(args, dsn):
    for variant in variants(args.hubs, args.loops):
        command = [sys.executable, str(HERE / "parked.py"), variant.hub, "--dsn", dsn]
        env = environment(variant, args.tree) | {"PYTHONMALLOC": "malloc"}
        answer = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)
        yield {"variant": str(variant), "above": answer["query"] - answer["hub"], **answer}


def line(row):
    return f"{row['variant']:18} {row['above']:7,.0f} {row['query']:11,.0f} {row['hub']:11,.0f}"


if __name__ == "__main__":
    main(sys.modules[__name__])
