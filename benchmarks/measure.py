"""All measurements in one run, recorded as JSON.

    python benchmarks/measure.py all --json record.json
    python benchmarks/measure.py cputime memory

Prints each table as it is measured, and then each figure that has a target, beside the
target.
"""

import json
import os
import platform
import subprocess

import connecting
import cputime
import driver
import instructions
import memory
import syscalls
import works

TABLES = {
    "instructions": ("Instructions per query (callgrind)", instructions),
    "works": ("Instructions of everyday work (callgrind)", works),
    "syscalls": ("System calls per query", syscalls),
    "cputime": ("CPU time per query", cputime),
    "connecting": ("CPU time for a connect, and 1,000 at once", connecting),
    "memory": ("Bytes for a parked connection", memory),
}


def about(args, dsn):
    """Return a description of the machine and the software that were measured."""
    with driver.Client(driver.BLOCKING, dsn, args.tree) as client:
        server = client.about["server"]
    try:
        with open("/proc/cpuinfo") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    git = ["git", "-C", args.tree, "describe", "--always", "--dirty"]
    return {
        "processor": f"{processor}, {os.cpu_count()} CPUs",
        "kernel": f"{platform.system()} {platform.release()}",
        "C library": " ".join(platform.libc_ver()),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "PostgreSQL": server,
        "commit": subprocess.run(git, check=False, capture_output=True, text=True).stdout.strip(),
        **driver.versions(),
    }


def targets(record):
    """Yield (what, figure, target) for each target whose figure is in *record*."""

    def find(table, **wanted):
        for row in record.get(table, ()):
            if all(row[key] == value for key, value in wanted.items()):
                return row
        return {}

    share = {"gevent": 0.40, "eventlet": 0.29}
    overhead = {"gevent": 5300, "eventlet": 5800}
    cpu = {"gevent": 0.70, "eventlet": 0.65}
    everyday = {
        "gevent": {"connect": 55_000, "transaction": 17_000, "named cursor": 36_000},
        "eventlet": {"connect": 80_000, "transaction": 20_000, "named cursor": 40_000},
    }
    for hub in driver.HUBS:
        variant = f"{hub} compiled"
        row = find("instructions", variant=variant, connections=16)
        yield f"{hub}, 16 connections: overhead, instructions", row.get("overhead"), overhead[hub]
        yield f"{hub}, 16 connections: overhead, of 1.0.2's", row.get("of 1.0.2"), share[hub]
        row = find("instructions", variant=f"{hub} pure", connections=16)
        yield f"{hub}, 16 connections: pure loop's overhead, of 1.0.2's", row.get("of 1.0.2"), 1.0
        for work, target in everyday[hub].items():
            yield (
                f"{hub}, {work}: overhead, instructions",
                find("works", variant=variant, work=work).get("overhead"),
                target,
            )
        row = find("syscalls", variant=variant, connections=16)
        yield f"{hub}, 16 connections: system calls per query (strace)", row.get("calls"), 2.3
        for what, target in {
            "16 connections: compiled / 1.0.2": cpu[hub],
            "64 connections: compiled / 1.0.2": cpu[hub],
            "16 connections on libuv: compiled / 1.0.2": 0.35,
            "1 connection, wall time: compiled / 1.0.2": 1.0,
            "compiled: 1,000 connections / 16": 1.5,
            "100 MB in 100,000 rows: compiled / blocking": 1.03,
            "100 MB in 100 rows: compiled / blocking": 1.03,
        }.items():
            yield f"CPU: {hub}, {what}", find("cputime", what=f"{hub}, {what}").get("ratio"), target
        for what, target in {"unix socket": 1.05, "TCP": 1.05, "1,000 at once, wall time": 1.0}.items():
            row = find("connecting", what=f"{hub}, {what}")
            yield f"connecting: {hub}, {what}: compiled / 1.0.2", row.get("ratio"), target
        yield f"{hub}: bytes for a parked connection", find("memory", variant=variant).get("above"), 1024


def number(figure):
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3f}"


def main():
    parser = driver.parser(__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", choices=["all", *TABLES])
    parser.add_argument("--json", help="where to write the record")
    args = parser.parse_args()

    with driver.server() as dsn:
        record = {"about": about(args, dsn)}
        for key, value in record["about"].items():
            print(f"{key}: {value}")
        for name, (title, module) in TABLES.items():
            if name in args.tables or "all" in args.tables:
                print(f"\n{title}\n")
                record[name] = driver.table(module, args, dsn)
                if args.json:
                    with open(args.json, "w") as file:
                        json.dump(record, file, indent=1)

    print(f"\n{'figure':>8}  {'target':>8}")
    for what, figure, target in targets(record):
        if figure is not None:
            verdict = "reached" if figure <= target else "NOT REACHED"
            print(f"{number(figure):>8}  {number(target):>8}  {verdict:11}  {what}")


if __name__ == "__main__":
    main()
