"""The choice between the compiled and the pure module that move the rows of a COPY."""

from psycogreen._implementation import implementation

if implementation == "cython":
    try:
        from psycogreen._libpq._copyrows import read_rows, write_rows
    except ImportError:
        # This extension was not built, although the wait loop was.
        from psycogreen._libpq._copyrows_py import read_rows, write_rows
else:
    from psycogreen._libpq._copyrows_py import read_rows, write_rows

__all__ = ["read_rows", "write_rows"]
