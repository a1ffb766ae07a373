"""The release of psycogreen before this one, to compare with."""

import subprocess
import sys
from pathlib import Path


def old_release(directory: Path) -> Path:
    """Return a directory, made in *directory* the first time, with the package of release 1.0.2 and nothing else."""
    place = directory / "psycogreen-1.0.2"
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-deps", "--target", place, "psycogreen==1.0.2"], check=True)
    return place
