"""Making psycopg 3 green as soon as it is imported."""

import importlib.abc
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from psycogreen._adapter import Adapter

_PACKAGE = "psycopg"


def activate(adapter: Adapter, cancel: bool) -> None:
    """Make psycopg 3 green, now if it is imported, or else when it will be.

    Args:
        adapter: The coroutine library.
        cancel: Ask the server to cancel a query when an exception ends the wait for it.
    """
    if os.name == "nt":
        return  # psycopg's own wait functions serve better than what is left without poll(2)
    _finder.arguments = adapter, cancel
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if hasattr(sys.modules.get(_PACKAGE), "Connection"):
        _make_green()


def _make_green() -> None:
    # It imports psycopg.
    from psycogreen._psycopg3.connection import make_green

    make_green(*_finder.arguments)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds psycopg where the other finders find it, with a loader that makes it green."""

    arguments: tuple[Adapter, bool]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        for finder in sys.meta_path:
            # The others of this kind ask all finders, too.
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        # Those who look for the module's source or data want its own loader.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _make_green()


_finder = _Finder()
