"""Green factories in the place of those that users bring.

A factory that is a class keeps its type: the green class is a subclass of it,
with the resolution order

    the user's classes, our class, its mixins, psycopg2's own class

What a user's class overrides goes on to be called, and its super() finds ours.
Where it calls psycopg2's class by its full name instead, ours is not reached:
the methods that would then stop the hub get a wrapper in the green class.
"""

import types
from typing import Any


def green_factory(factory: Any, green: type) -> Any:
    """Return a factory that makes what *factory* makes, as a *green* object.

    *green* is our subclass of psycopg2's connection or cursor. Only a
    function that makes objects of psycopg2's own class keeps making those:
    the class of such an object can't be changed.
    """
    if not isinstance(factory, type):
        return _WrappedFactory(factory, green)
    if not issubclass(factory, green.__bases__[-1]):
        return factory  # psycopg2 says what is wrong with it
    return _green_class(factory, green)


def original_factory(factory: Any) -> Any:
    """Return the user's factory for which *factory* is the green one."""
    if isinstance(factory, _WrappedFactory):
        return factory.factory
    if isinstance(factory, type):
        return factory.__dict__.get("_green_for", factory)
    return factory


def _green_class(factory: type, green: type) -> type:
    """Return the green class for *factory*, made once.

    It is kept in *factory* itself: tracing libraries make classes for single
    connections, and a table here would keep all of those.
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
    """A factory that is no class: what it makes becomes green afterwards."""

    __slots__ = ("_green", "factory")

    def __init__(self, factory: Any, green: type) -> None:
        self.factory = factory
        self._green = green

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return make_green(self.factory(*args, **kwargs), self._green)


def make_green(made: Any, green: type) -> Any:
    """Return *made*, a connection or cursor, after it has become a *green* one.

    An object of psycopg2's own class stays what it is, and so does a proxy.
    """
    if issubclass(type(made), green.__bases__[-1]) and not issubclass(type(made), green):
        try:
            made.__class__ = _green_class(type(made), green)
        except TypeError:
            pass  # of psycopg2's own class
    return made


def overridden(factory: type, name: str) -> Any:
    """Return the function by which the class *factory* overrides psycopg2's method *name*, or None."""
    method = getattr(factory, name)
    return method if isinstance(method, types.FunctionType) else None
