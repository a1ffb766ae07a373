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
    """Make psycopg 3 green: now if it is imported, or else as soon as it is.

    Args:
        adapter: The coroutine library.
        cancel: Ask the server to cancel a query when an exception ends the wait for it.
    """
    if os.name == "nt":
        return  # without poll(2), psycopg's own wait functions are better
    _finder.arguments = adapter, cancel
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if hasattr(sys.modules.get(_PACKAGE), "Connection"):
        _make_green()


def _make_green() -> None:
    # Imported here, because that module imports psycopg.
    from psycogreen._psycopg3.connection import make_green

    make_green(*_finder.arguments)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds psycopg through the other finders, and gives it a loader that makes it green."""

    arguments: tuple[Adapter, bool]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        for finder in sys.meta_path:
            # Other finders of this kind ask all finders too, so each must leave itself out.
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
        # Code that looks for the module's source or data needs its own loader.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _make_green()


_finder = _Finder()
