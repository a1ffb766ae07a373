"""Programs of their own, for what only a fresh process can show."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest


@pytest.fixture
def run_script() -> Callable[..., str]:
    """Run *script* with this Python; return what it printed.

    *names* are put in for ``{name}`` in its text.

    Raises:
        AssertionError: It ended with another status than 0, or took too long.
    """

    def run(script: str, **names: object) -> str:
        script = textwrap.dedent(script)
        for name, value in names.items():
            script = script.replace("{%s}" % name, str(value))
        # Also for gevent's and eventlet's own deprecations of being patched late.
        process = subprocess.run(
            [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    return run
