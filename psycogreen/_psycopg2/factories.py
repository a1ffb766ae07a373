"""Green factories that replace users' factories for connections and cursors.

For a user's class, the green factory is a subclass with the resolution order

    the user's classes, our class, its mixins, psycopg2's own class

A method of the user's class is still called, and its super() calls our method. If it
calls psycopg2's class by its full name instead, our method is skipped. So the green
class wraps those of the user's methods that could then stop the hub.
"""

import types
from typing import Any


def green_factory(factory: Any, green: type) -> Any:
    """Return a factory that makes the objects of *factory* as *green* ones.

    *green* is our subclass of psycopg2's connection or cursor. One factory stays as it
    is: a function that makes objects of psycopg2's own class, because the class of such
    an object can't be changed.
    """
    if not isinstance(factory, type):
        return _WrappedFactory(factory, green)
    if not issubclass(factory, green.__bases__[-1]):
        return factory  # not a factory: psycopg2 raises its own error for it
    return _green_class(factory, green)


def original_factory(factory: Any) -> Any:
    """Return the user's factory that the green *factory* replaces. Any other *factory* is returned as it is."""
    if isinstance(factory, _WrappedFactory):
        return factory.factory
    if isinstance(factory, type):
        return factory.__dict__.get("_green_for", factory)
    return factory


def _green_class(factory: type, green: type) -> type:
    """Return the green class for *factory*; make it in the first call.

    *factory* itself keeps the green class. Some tracing libraries make a class for each
    connection, and a table here would keep all those classes alive.
    """
    if issubclass(factory, green):
        return factory
    if issubclass(green, factory):
        return green  # psycopg2's own class
    made = factory.__dict__.get("_green_class")
    if made is None:
        names = {
            "__module__": factory.__module__,
            "__qualname__": factory.__qualname__,
            "__doc__": factory.__doc__,
            "__slots__": (),
            "_green_for": factory,
        }
        if hasattr(green, "_green_wrappers"):
            names.update(green._green_wrappers(factory))
        made = types.new_class(factory.__name__, (factory, green), exec_body=lambda body: body.update(names))
        factory._green_class = made  # type: ignore[attr-defined]
    return made


class _WrappedFactory:
    """A factory that is a function. Its objects become green after it has made them."""

    __slots__ = ("_green", "factory")

    def __init__(self, factory: Any, green: type) -> None:
        self.factory = factory
        self._green = green

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return make_green(self.factory(*args, **kwargs), self._green)


def make_green(made: Any, green: type) -> Any:
    """Change the class of *made*, a connection or cursor, to a *green* one; return *made*.

    An object of psycopg2's own class keeps its class, and so does a proxy.
    """
    if issubclass(type(made), green.__bases__[-1]) and not issubclass(type(made), green):
        try:
            made.__class__ = _green_class(type(made), green)
        except TypeError:
            pass  # *made* is of psycopg2's own class
    return made


def overridden(factory: type, name: str) -> Any:
    """Return the Python function that overrides psycopg2's method *name* in the class *factory*, or None."""
    method = getattr(factory, name)
    return method if isinstance(method, types.FunctionType) else None
