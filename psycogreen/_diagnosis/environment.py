"""The report of ``python -m psycogreen``: installed packages, and problems with them."""

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psycogreen
from psycogreen import _surroundings
from psycogreen._drivers import is_installed
from psycogreen._implementation import why_pure

#: The libraries for which there is an adapter, except uWSGI, which exists only in its own process.
HUBS = ("gevent", "eventlet", "asyncio")


def environment() -> dict[str, Any]:
    """Return the versions, the green features, and the problems, each with advice.

    To do so, connect to the server that libpq's environment variables name.
    """
    report: dict[str, Any] = {
        "psycogreen": psycogreen.__version__,
        "loop": psycogreen.implementation,
        "poller": psycogreen.poller,
        "why_pure": why_pure,
        "python": platform.python_version(),
        "platform": f"{platform.python_implementation()} on {platform.system()} {platform.machine()}",
    }
    problems: list[str] = []
    report |= _psycopg2(problems)
    for package in ("psycopg", "gevent", "eventlet", "greenlet"):
        report[package] = installed(package)
    report["monkey_patched"] = _surroundings.monkey_patched()
    if not installed_hubs():
        problems.append("no hub is installed: pip install psycogreen[gevent], or [eventlet], or [asyncio]")
    if why_pure is not None and "can't be imported" in why_pure:
        problems.append(f"{why_pure}. Install psycogreen anew: pip install --force-reinstall --no-cache-dir psycogreen")
    report["problems"] = problems
    return report


def installed(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_hubs() -> list[str]:
    """Return the libraries on which the drivers can be green here."""
    return [name for name in HUBS if installed("greenlet" if name == "asyncio" else name)]


def _psycopg2(problems: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = dict.fromkeys(("psycopg2", "libpq", "libpq_error", "green", "postgresql", "connect_error"))
    try:
        psycopg2: Any = import_module("psycopg2")
        extensions: Any = import_module("psycopg2.extensions")
    except ImportError as exc:
        absent = isinstance(exc, ModuleNotFoundError) and exc.name == "psycopg2"
        if absent and is_installed("psycopg"):
            report["green"] = ["queries", "connecting", "COPY", "cancel"]
            return report | _server(import_module("psycopg"))
        what = "psycopg2 is not installed" if absent else f"psycopg2 can't be imported: {exc}"
        problems.append(f"{what}. Install psycopg2-binary, or psycopg2 where there is a compiler")
        return report
    from psycogreen._libpq import libpq

    report["psycopg2"] = psycopg2.__version__.partition(" ")[0]
    number = extensions.libpq_version()
    report["libpq"] = f"{number // 10000}.{number % 10000}"
    report["green"] = ["queries", "connecting"]
    try:
        libpq()
    except psycopg2.NotSupportedError as exc:
        report["libpq_error"] = str(exc)
        problems.append(f"COPY and large objects raise NotSupportedError: {exc}")
    else:
        report["green"] += ["COPY", "large objects", "cancel"]
    return report | _server(psycopg2)


def _server(driver: Any) -> dict[str, Any]:
    """Connect with *driver*; return the server's version, or why there is none."""
    try:
        # Without a timeout, a server that drops packets would cause a wait of minutes.
        connection = driver.connect("" if "PGCONNECT_TIMEOUT" in os.environ else "connect_timeout=5")
    except driver.Error as exc:
        return {"connect_error": " ".join(str(exc).split())}
    try:
        return {"postgresql": connection.info.parameter_status("server_version")}
    finally:
        connection.close()
