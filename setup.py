"""The build of the optional extensions. Everything else is in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError


class BuildExt(build_ext):
    def initialize_options(self):
        super().initialize_options()
        # Keep the generated C out of the sources, and so out of sdists.
        self.cython_c_in_temp = True
        self.built = False

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
            self.built = True
        except (BaseError, CompileError, LinkError) as exc:
            pure(exc)
            raise  # setuptools goes on, because the extension is optional


class BdistWheel(bdist_wheel):
    def get_tag(self):
        # A wheel without compiled modules fits every platform. pip caches the wheels
        # that it builds: tagged for this platform, the pure wheel would be installed
        # even when a compiler is there later.
        if not self.get_finalized_command("build_ext").built:
            self.root_is_pure = True
        return super().get_tag()


def pure(why):
    print(f"psycogreen: compiled wait loop not built ({why}); installing the pure Python one", file=sys.stderr)


def extensions():
    if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
        pure("PSYCOGREEN_NO_EXTENSIONS is set")
        return []
    import greenlet

    return [
        Extension(
            "psycogreen._waitloop",
            ["psycogreen/_waitloop.pyx"],
            include_dirs=[os.path.dirname(greenlet.__file__)],
            depends=["psycogreen/_reactor.pxi"],
            optional=True,
        ),
        Extension("psycogreen._libpq._copyrows", ["psycogreen/_libpq/_copyrows.pyx"], optional=True),
        Extension("psycogreen._ugreen", ["psycogreen/_ugreen.c"], optional=True),
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel})
