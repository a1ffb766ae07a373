"""The sdist and the wheel, and installing where the extension cannot be built."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import psycogreen

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        psycogreen.implementation == "python", reason="where the compiled loop is not there it can't be built either"
    ),
]


def run(*command, **kwargs):
    """Run *command* and return its output, which a failure shows."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    # Not isolated, to save time. pip isolates one build below: it fails if pyproject.toml misses a requirement.
    command = sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT
    run(*command, env=environment(CFLAGS="-O0"))
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


def environment(**changes):
    """Return the environment without the variables that choose a loop or a psycogreen."""
    unwanted = {"PSYCOGREEN_NO_EXTENSIONS", "PYTHONPATH", "CC"}
    return {name: value for name, value in os.environ.items() if name not in unwanted} | changes


def test_sdist_holds_the_sources(dist):
    sdist, _ = dist
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"psycogreen/_waitloop.pyx", "psycogreen/_poller.h", "psycogreen/_reactor.pxi"} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "Makefile"} <= names
    assert "tests/test_packaging.py" in names
    assert {name for name in names if name.endswith((".c", ".so", ".pyc"))} == {"psycogreen/_ugreen.c"}


def test_wheel_holds_the_package_and_nothing_else(dist):
    _, wheel = dist
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    sources = [path for path in (ROOT / "psycogreen").rglob("*.*") if path.suffix in (".py", ".pyi", ".pyx", ".c")]
    expected = {str(path.relative_to(ROOT)) for path in sources if path.suffix in (".py", ".pyi")}
    compiled = [path for path in sources if path.suffix in (".pyx", ".c")]
    expected |= {str(path.relative_to(ROOT).with_suffix(suffix)) for path in compiled}
    expected.add("psycogreen/py.typed")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheel.name.startswith(f"psycogreen-{psycogreen.__version__}-{version}-{version}-")


def test_metadata_is_complete(dist):
    sdist, wheel = dist
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == psycogreen.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.10"
    assert sorted(metadata.get_all("Provides-Extra")) == ["asyncio", "binary", "eventlet", "gevent", "uwsgi"]
    # Users choose psycopg2 or psycopg2-binary, and their hub.
    assert all("extra ==" in requirement for requirement in metadata.get_all("Requires-Dist"))
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)


@pytest.mark.parametrize(
    ("conditions", "options", "hubs"),
    [
        # All install the same package; two of them run some tests, one on each hub.
        pytest.param({"CC": "false"}, [], ["gevent"], id="compiler that fails"),
        pytest.param({"PATH": "/nowhere"}, ["--no-build-isolation"], ["eventlet"], id="no compiler"),
        pytest.param({"PSYCOGREEN_NO_EXTENSIONS": "1"}, ["--no-build-isolation"], [], id="not wanted"),
    ],
)
def test_the_package_installs_without_the_extension(conditions, options, hubs, dist, dsn, tmp_path):
    """``pip install`` succeeds and reports the missing extension, and the installed package works."""
    sdist, _ = dist
    python = make_venv(tmp_path / "venv")
    pip = sys.executable, "-m", "pip", "--python", python
    log = run(*pip, "install", "-v", "--no-deps", "--no-cache-dir", *options, sdist, env=environment(**conditions))
    assert "psycogreen: compiled wait loop not built (" in log
    assert "installing the pure Python one" in log
    assert f"filename=psycogreen-{psycogreen.__version__}-py3-none-any.whl" in log

    # From another directory, so that Python imports the installed psycogreen.
    program = "import psycogreen; print(psycogreen.implementation, psycogreen.__file__)"
    implementation, file = run(python, "-c", program, cwd=tmp_path, env=environment()).split()
    assert implementation == "python"
    assert Path(file).is_relative_to(tmp_path)
    for hub in hubs:
        # It was the pure loop without this, too: asked for, it comes without a warning.
        env = environment(PSYCOGREEN_TEST_HUB=hub, PSYCOGREEN_TEST_DSN=dsn, PSYCOGREEN_NO_EXTENSIONS="1")
        tests = ROOT / "tests" / "test_concurrency.py"
        log = run(python, "-m", "pytest", "-p", "no:cacheprovider", tests, cwd=tmp_path, env=env)
        assert f"psycogreen: python loop on {hub}" in log


def make_venv(directory):
    """Make an environment with this one's packages, except psycogreen; return its Python."""
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # Python imports from that directory but ignores its .pth files. One of them leads to an editable psycogreen.
    Path(site, "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
