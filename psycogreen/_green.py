"""Green classes for the connection and cursor factories that users bring."""

from typing import Any


def green_class(factory: type, green: type) -> type:
    """Return the subclass of *factory* that is also a *green* one.

    *green* comes after the user's classes in the method resolution order and
    before psycopg2's own: what a user's class overrides goes on to be called,
    and its ``super()`` finds ours.

    It is made once for each factory and kept in it: in a table here, a class
    made for a single connection (tracing libraries do that) would stay for
    ever.
    """
    if issubclass(factory, green):
        return factory
    if issubclass(green, factory):
        return green  # psycopg2's own class
    made = factory.__dict__.get("_psycogreen_class")
    if made is None:
        names = {"__module__": factory.__module__, "__qualname__": factory.__qualname__, "__doc__": factory.__doc__}
        made = type(factory)(factory.__name__, (factory, green), {**names, "__slots__": ()})
        factory._psycogreen_class = made  # type: ignore[attr-defined]
    return made
