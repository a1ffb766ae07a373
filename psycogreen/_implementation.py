"""The choice between the compiled wait loop and the pure one, made once, at import."""

import os

if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
    from psycogreen._waitloop_py import implementation, wait_callback, waiter_of
else:
    try:
        from psycogreen._waitloop import implementation, wait_callback, waiter_of
    except ImportError:
        # Not built (no compiler), or built for another interpreter.
        from psycogreen._waitloop_py import implementation, wait_callback, waiter_of

__all__ = ["implementation", "wait_callback", "waiter_of"]
