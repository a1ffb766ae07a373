"""Making one or both of the drivers green."""

import importlib.util
from collections.abc import Callable, Iterable

from psycogreen._adapter import Adapter

_DRIVERS = ("psycopg2", "psycopg")


def make_green(
    callback: Callable[..., None],
    adapter: Adapter,
    connections: bool,
    cancel: bool,
    timeout: float | None,
    drivers: Iterable[str] | None,
) -> None:
    """Make the drivers green.

    Args:
        callback: The wait callback for psycopg2.
        adapter: The adapter that *callback* uses.
        connections, cancel, timeout: See the adapters' ``make_psycopg_green()``.
        drivers: "psycopg2", "psycopg" or both; None for those that are installed.

    Raises:
        ImportError: None of the drivers is installed, or one that *drivers* names is not.
        ValueError: *drivers* names something else.
    """
    wanted = set(_DRIVERS if drivers is None else [drivers] if isinstance(drivers, str) else drivers)
    if not wanted or not wanted <= set(_DRIVERS):
        raise ValueError(f"drivers must be 'psycopg2', 'psycopg' or both, not {drivers!r}")
    if drivers is None and is_installed("psycopg") and not is_installed("psycopg2"):
        wanted = {"psycopg"}
    if drivers is not None and "psycopg" in wanted and not is_installed("psycopg"):
        raise ImportError("psycopg (3) is not installed: install psycopg[binary], or psycopg[c]")
    if "psycopg2" in wanted:
        from psycogreen._psycopg2.activate import register

        register(callback, adapter, connections, cancel, timeout)
    if "psycopg" in wanted:
        from psycogreen._psycopg3.activate import activate

        activate(adapter, cancel)


def installed_drivers() -> list[str]:
    """Return the modules of the drivers that are installed."""
    return [name for name in _DRIVERS if is_installed(name)]


def is_installed(name: str) -> bool:
    """Return whether the module *name* can be found."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module without a spec, for example made by a test
        return True
