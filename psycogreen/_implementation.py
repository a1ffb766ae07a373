"""The choice between the compiled wait loop and the pure one, made once, at import."""

import os
import sys

#: Why the pure loop is in use; None if the compiled one is.
why_pure: str | None = None

if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
    from psycogreen._waitloop_py import (
        generator_wait,
        has_waiter,
        implementation,
        poller,
        start_greenlet,
        wait_callback,
        waiter_of,
    )

    why_pure = "PSYCOGREEN_NO_EXTENSIONS is set"
else:
    try:
        from psycogreen._waitloop import (
            generator_wait,
            has_waiter,
            implementation,
            poller,
            start_greenlet,
            wait_callback,
            waiter_of,
        )
    except ImportError as exc:
        from psycogreen._waitloop_py import (
            generator_wait,
            has_waiter,
            implementation,
            poller,
            start_greenlet,
            wait_callback,
            waiter_of,
        )

        # No compiler, or a file for another interpreter only, which has another name.
        absent = isinstance(exc, ModuleNotFoundError) and exc.name == "psycogreen._waitloop"
        why_pure = "the compiled loop was not built" if absent else f"the compiled loop can't be imported: {exc}"

# In a free-threaded build, importing an extension that does not know such builds has enabled the GIL by now.
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError("psycogreen needs the GIL, which is disabled in this process: set PYTHON_GIL=1")

__all__ = [
    "generator_wait",
    "has_waiter",
    "implementation",
    "poller",
    "start_greenlet",
    "wait_callback",
    "waiter_of",
    "why_pure",
]
