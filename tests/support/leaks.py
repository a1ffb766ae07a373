"""What this process holds."""

import gc
import os


def descriptors() -> dict[int, str]:
    """Return what each open descriptor is of, as the links in /proc say."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass  # the directory itself
    return found


def count_descriptors() -> int:
    """Return how many descriptors are open, when what is garbage has gone."""
    gc.collect()
    return len(descriptors())


def objects(kind: str) -> int:
    """Return how many objects there are of a type with this name."""
    gc.collect()
    return sum(type(each).__name__ == kind for each in gc.get_objects())
