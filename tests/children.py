"""Processes of their own for tests, forked from this one: that saves the seconds of importing torch."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object], told: Path | None = None) -> int:
    """Start a child that does ``work`` and ends with what it raises as ``SystemExit``; its process id.

    Args:
        work: what the child does; an error ends it with code 1.
        told: a folder for the files ``out`` and ``err``, which the child writes to instead of the terminal.
    """
    with warnings.catch_warnings():
        # Python 3.12 and later warn where there are other threads: here only those by which test processes talk.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if told is not None:
            _speak_into(told)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - told, and the child ends
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # nothing of the parent is cleaned up


def ended(pid: int) -> int:
    """Wait for a child: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _speak_into(folder: Path) -> None:
    warnings.resetwarnings()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        stream = open(number, "w", buffering=1, closefd=False)  # noqa: SIM115
        setattr(sys, f"std{name}", stream)
