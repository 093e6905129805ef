"""The command line: one word for each verb. The only room that prints.

Every verb is a frozen dataclass, which tyro turns into options; what a verb needs is imported when it runs, so that
``--help`` costs no import of torch. Bad input is one line on the error stream and exit code 2; an interrupt says how to
go on and exits with 130.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import tyro

from starring.cli.show import complain, remark
from starring.cli.verbs import VERBS, Verb
from starring.errors import Interrupted, StarringError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb and exit with 0; with 2 after one line about what was wrong; with 130 when interrupted.

    Args:
        argv: arguments without the program's name; the process's own by default.
    """
    # What the libraries log and warn about (missing optional packages, renamed arguments) is nothing to act on here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    if not sys.warnoptions:
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = remarked
    given = list(sys.argv[1:] if argv is None else argv)
    verb: Verb = tyro.extras.subcommand_cli_from_dict(
        VERBS, prog="starring", description="Put your own subject into the starring role of a text-to-video model.",
        args=given or ["--help"], config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    sys.exit(carry_out(verb))


def remarked(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in the source that it came from."""
    remark(str(message))


def carry_out(verb: Verb) -> int:
    """Run a verb, turning errors that are meant for people into one line.

    Returns:
        The exit code.
    """
    try:
        verb.run()
    except Interrupted as stop:
        complain(str(stop))
        return 130
    except KeyboardInterrupt:
        complain("Stopped. What was written before is whole; the same command begins again.")
        return 130
    except StarringError as error:
        complain(str(error))
        return 2
    except BrokenPipeError:
        # Whoever read our output (`| head`) has gone; flushing at exit must not complain about that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        line = of_the_system(error)
        if line is None:
            raise
        complain(line)
        return 2
    except RuntimeError as error:
        # Only torch knows this class, and it may not have been imported.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        complain(
            "The accelerator's memory is full. Close what else uses it, or try --offload, --vae-slicing and"
            " --vae-tiling, --dtype bf16, a smaller --batch (learning), or fewer --frames (filming)."
        )
        return 2
    return 0


def of_the_system(error: OSError) -> str | None:
    """One line about a disk that is full or a path that cannot be used; ``None`` for everything else."""
    where = f" ({Path(os.fsdecode(error.filename))})" if isinstance(error.filename, str | bytes | Path) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"The disk is full{where}. Nothing was left half-written. Free some space and run the same command again."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"There is no permission to use this file or folder{where}. Choose another, or change its permissions."
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG):
        return f"{error.strerror}{where}. Check the path."
    return None
