"""The choice between the compiled and the pure module that guards a connection in use."""

from psycogreen._implementation import implementation

if implementation == "cython":
    try:
        from psycogreen._psycopg2._guard import Guarded, check_free, exclusive, holder
    except ImportError:
        # This extension was not built, although the wait loop was.
        from psycogreen._psycopg2._guard_py import Guarded, check_free, exclusive, holder
else:
    from psycogreen._psycopg2._guard_py import Guarded, check_free, exclusive, holder

__all__ = ["Guarded", "check_free", "exclusive", "holder"]
