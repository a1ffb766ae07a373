"""Wait callbacks that make psycopg2 cooperate with coroutine libraries.

Import the adapter of your library and switch it on once, at start-up::

    from psycogreen.gevent import make_psycopg_green
    make_psycopg_green()

Importing this package alone imports neither a hub nor psycopg2.
"""

TYPE_CHECKING = False  # typing's own takes longer to import than this package
if TYPE_CHECKING:
    from psycogreen._diagnosis.status import Status
    from psycogreen._implementation import implementation, poller
    from psycogreen._setup_warnings import SetupWarning

__version__ = "2.0.0"

__all__ = ["SetupWarning", "__version__", "implementation", "poller", "status"]


def __getattr__(name: str) -> object:
    # The wait loop brings greenlet along, and is needed only with an adapter.
    if name in ("implementation", "poller"):
        from psycogreen import _implementation

        return getattr(_implementation, name)
    if name == "SetupWarning":
        from psycogreen._setup_warnings import SetupWarning

        return SetupWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def status() -> "Status":
    """Return what is green in this process, and what is wrong, seen from the thread that asks.

    To count the connections, it searches all objects, which takes some
    milliseconds.
    """
    from psycogreen._diagnosis.status import status

    return status()
