"""On another device than the CPU all methods learn and film: ``tests/on_another_device.py`` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_everything_learns_and_films_on_another_device() -> None:
    """The device would stay in this process, and be the accelerator of all that comes after."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, str(HERE / "on_another_device.py")], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
