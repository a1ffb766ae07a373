"""``python -m psycogreen``: what is installed, and whether the hubs run on while queries wait."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from psycogreen._diagnosis.check import Outcome, check
from psycogreen._diagnosis.environment import environment, installed_hubs
from psycogreen._drivers import installed_drivers


def main() -> int:
    """Print the report that the arguments ask for; return the exit status, 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m psycogreen",
        description="Print what is installed, and what stands in the way of a green driver.",
    )
    as_json = {"action": "store_true", "help": "print JSON", "default": argparse.SUPPRESS}
    parser.add_argument("--json", **as_json)  # type: ignore[arg-type]
    commands = parser.add_subparsers(dest="command")
    checking = commands.add_parser("check", help="make queries on each hub that is installed, beside a ticker")
    checking.add_argument("dsn", nargs="?", default="", help="the server; without it, the one of libpq's variables")
    checking.add_argument("--json", **as_json)  # type: ignore[arg-type]
    arguments = parser.parse_args()
    if arguments.command == "check":
        outcomes = [check(hub, driver, arguments.dsn) for hub in installed_hubs() for driver in installed_drivers()]
        green = bool(outcomes) and all(outcome.green for outcome in outcomes)
        if "json" in arguments:
            print(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=2))
        else:
            print(
                "\n".join(map(_outcome_text, outcomes))
                or "no hub or no driver is installed: pip install psycogreen[gevent,binary]"
            )
        return 0 if green else 1
    report = environment()
    print(json.dumps(report, indent=2) if "json" in arguments else _environment_text(report))
    return 1 if report["problems"] else 0


def _outcome_text(outcome: Outcome) -> str:
    what = f"{outcome.hub:<12}{outcome.driver:<12}"
    if outcome.error is not None:
        return f"{what}failed: {outcome.error}"
    return (
        f"{what}{'the hub kept running' if outcome.green else 'THE HUB STOOD STILL'}:"
        f" {outcome.seconds:.2f} s for the queries, longest pause {outcome.longest_pause:.3f} s"
    )


def _environment_text(report: dict[str, Any]) -> str:
    loop = f"compiled, with {report['poller']}" if report["why_pure"] is None else f"pure Python: {report['why_pure']}"
    libpq = report["libpq"] and f"{report['libpq']}, {'can not' if report['libpq_error'] else 'can'} be reached"
    patched = [f"{', '.join(modules)} by {library}" for library, modules in report["monkey_patched"].items()]
    rows = {
        "psycogreen": report["psycogreen"],
        "wait loop": loop,
        "Python": f"{report['python']} ({report['platform']})",
        "psycopg2": report["psycopg2"],
        "libpq": libpq,
        "psycopg 3": report["psycopg"],
        "gevent": report["gevent"],
        "eventlet": report["eventlet"],
        "greenlet": report["greenlet"],
        "PostgreSQL": report["postgresql"] or report["connect_error"],
        "patched": "; ".join(patched) or "nothing",
        "green": ", ".join(report["green"] or ["nothing"]),
    }
    lines = [f"{name:<12}{'not installed' if value is None else value}" for name, value in rows.items()]
    return "\n".join(lines + [f"PROBLEM     {problem}" for problem in report["problems"]])


if __name__ == "__main__":
    sys.exit(main())
