"""The choice between the compiled wait loop and the pure one, made once, at import."""

import os

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
