"""A browser without a window, for pages that have to work in one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The program; skips the test where there is none."""
    own = sorted((Path.home() / ".cache" / "ms-playwright").glob("chromium*/chrome-linux*/*chrom*"))
    found = [path for path in map(shutil.which, NAMES) if path] + [str(p) for p in own if os.access(p, os.X_OK)]
    if not found:
        pytest.skip(
            f"no browser: install Chromium (one of {', '.join(NAMES)}, or playwright's) to open the pages in it"
        )
    return found[0]


def opened(page: Path, scratch: Path, milliseconds: int = 4000) -> tuple[str, list[str]]:
    """Open a page, let its scripts run, and return what it has become and what its console said."""
    words = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-extensions", "--disable-background-networking", "--autoplay-policy=no-user-gesture-required",
        f"--user-data-dir={scratch / 'profile'}", "--enable-logging=stderr", "--v=0",
        f"--virtual-time-budget={milliseconds}", "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, re.findall(r":CONSOLE[^\]]*\]\s*(.*)", done.stderr)
