"""Build of the optional extension; everything else is in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Go on without the extension where it can't be compiled."""

    def run(self):
        try:
            super().run()
        except Exception as exc:
            pure(exc)

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as exc:
            pure(exc)


def pure(why):
    print(f"psycogreen: compiled wait loop not built ({why}); installing the pure Python one", file=sys.stderr)


def extensions():
    if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
        pure("PSYCOGREEN_NO_EXTENSIONS is set")
        return []
    try:
        import greenlet
        from Cython.Build import cythonize
    except ImportError as exc:
        pure(exc)
        return []
    waitloop = Extension(
        "psycogreen._waitloop",
        ["psycogreen/_waitloop.pyx"],
        include_dirs=[os.path.dirname(greenlet.__file__)],
    )
    return cythonize([waitloop])


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
