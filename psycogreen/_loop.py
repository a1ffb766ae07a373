"""The choice of the wait loop, made once, at import."""

import os

if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
    from psycogreen._pycopyrows import read_rows, write_rows
    from psycogreen._pywaitloop import implementation, parked, wait_callback
else:
    try:
        from psycogreen._copyrows import read_rows, write_rows
        from psycogreen._waitloop import implementation, parked, wait_callback
    except ImportError:
        # Not built (no compiler) or built for another interpreter.
        from psycogreen._pycopyrows import read_rows, write_rows
        from psycogreen._pywaitloop import implementation, parked, wait_callback

__all__ = ["implementation", "parked", "read_rows", "wait_callback", "write_rows"]
