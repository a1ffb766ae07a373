"""The rows of a COPY, between libpq and a file: compiled or in pure Python."""

from psycogreen._implementation import implementation

if implementation == "cython":
    try:
        from psycogreen._libpq._copyrows import read_rows, write_rows
    except ImportError:
        # It is an extension of its own, and its build alone may have failed.
        from psycogreen._libpq._copyrows_py import read_rows, write_rows
else:
    from psycogreen._libpq._copyrows_py import read_rows, write_rows

__all__ = ["read_rows", "write_rows"]
