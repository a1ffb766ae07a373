"""Wait callbacks that make psycopg2 cooperate with coroutine libraries.

Import the adapter of your library and switch it on once, at start-up::

    from psycogreen.gevent import make_psycopg_green
    make_psycopg_green()

Importing this package alone imports neither a hub nor psycopg2.
"""

from psycogreen._implementation import implementation

__version__ = "2.0.0"

__all__ = ["__version__", "implementation"]
