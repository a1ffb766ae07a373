"""Descriptors and objects of this process, for tests that look for leaks."""

import gc
import os


def descriptors() -> dict[int, str]:
    """Return the file of each open descriptor, as named by the links in /proc."""
    targets = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            targets[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # the descriptor of /proc/self/fd itself
    return targets


def count_descriptors() -> int:
    """Collect garbage, then return how many descriptors are open."""
    gc.collect()
    return len(descriptors())


def forget_eventlets_cancelled_timers() -> None:
    """Make eventlet's hub drop its cancelled timers. It otherwise keeps them until they would have been due."""
    import eventlet.hubs

    hub = eventlet.hubs.get_hub()
    hub.prepare_timers()
    # In order, which is a heap too.
    hub.timers = sorted((timer for timer in hub.timers if not timer[1].called), key=lambda timer: timer[0])
    hub.timers_canceled = 0


def objects(kind: str) -> int:
    """Return how many objects there are of the types named *kind*."""
    gc.collect()
    return sum(type(each).__name__ == kind for each in gc.get_objects())
