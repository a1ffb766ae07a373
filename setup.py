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


def poller():
    """Return what the reactor asks for ready sockets: epoll, kqueue, or none where the platform has neither."""
    chosen = os.environ.get("PSYCOGREEN_POLLER")  # to build the other forms on Linux
    if chosen:
        return chosen
    if sys.platform == "linux":
        return "epoll"
    if sys.platform.startswith(("darwin", "dragonfly", "freebsd", "netbsd", "openbsd")):
        return "kqueue"
    return "none"


def extensions():
    if os.environ.get("PSYCOGREEN_NO_EXTENSIONS", "0") not in ("", "0"):
        pure("PSYCOGREEN_NO_EXTENSIONS is set")
        return []
    import greenlet

    built = [
        Extension("psycogreen._libpq._copyrows", ["psycogreen/_libpq/_copyrows.pyx"], optional=True),
        Extension(
            "psycogreen._psycopg2._guard",
            ["psycogreen/_psycopg2/_guard.pyx"],
            depends=["psycogreen/_psycopg2/_guard_py.py"],
            optional=True,
        ),
        Extension("psycogreen._ugreen", ["psycogreen/_ugreen.c"], optional=True),
    ]
    if poller() == "none":
        # Compiled, the loop gains nothing but by its reactor.
        pure("no epoll and no kqueue here")
    else:
        loop = Extension(
            "psycogreen._waitloop",
            ["psycogreen/_waitloop.pyx"],
            include_dirs=[os.path.dirname(greenlet.__file__)],
            define_macros=[("PSYCOGREEN_KQUEUE", None)] if poller() == "kqueue" else [],
            depends=["psycogreen/_poller.h", "psycogreen/_reactor.pxi"],
            optional=True,
        )
        built.append(loop)
    return built


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel})
