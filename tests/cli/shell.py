"""The command line from outside, in this process and in its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Starring = Callable[..., tuple[int, str, str]]


def learning(tiny: Path, eyes: Path, photographs: Path, runs: Path, *more: object) -> list[str]:
    words = ["learn", "vcd", photographs, "--class-word", "dog", "--backbone", tiny, "--device", "cpu", "--size", 32,
             "--segmenter", eyes / "segmenter", "--runs", runs, "--batch", 1, *more]  # fmt: skip
    return [str(word) for word in words]


def refused(told: tuple[int, str, str], *fragments: str) -> None:
    """Exit code 2, nothing on the standard output, one readable line on the error stream."""
    code, out, err = told
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip()]
    complaints = [line for line in lines if line.startswith("starring: ")]
    assert len(complaints) == 1, err
    assert lines[-1] == complaints[0]
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in complaints[0]


def outside(words: Sequence[str], **more: object) -> "subprocess.Popen[str]":
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "starring", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def log_length(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


def interrupted(words: Sequence[str], run: Path, after: int) -> str:
    """Start learning, send Ctrl-C once the log has more than ``after`` lines, and return what was told."""
    process = outside(words)
    try:
        deadline = time.monotonic() + 120
        while log_length(run) <= after and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    return err
