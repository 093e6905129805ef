"""How the command line ends: errors, a full disk, Ctrl-C."""

import errno
import json
import resource
from dataclasses import dataclass
from pathlib import Path

import pytest

from starring.cli import carry_out
from starring.errors import Interrupted, StarringError
from tests.cli.shell import interrupted, learning, log_length, outside


@dataclass(frozen=True)
class Failing:
    """A verb that fails in a given way."""

    error: BaseException

    def run(self) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "code", "fragment"), [
    (StarringError("two\nlines"), 2, "two lines"),
    (Interrupted("Go on with: starring learn --resume runs/x"), 130, "--resume runs/x"),
    (KeyboardInterrupt(), 130, "Stopped"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "The disk is full (runs/x)"),
    (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "permission"),
])  # fmt: skip
def test_how_things_end(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, fragment: str) -> None:
    assert carry_out(Failing(error)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("starring: ")
    assert fragment in line


def test_a_mistake_of_ours_is_no_bad_input() -> None:
    with pytest.raises(RuntimeError, match="ours"):
        carry_out(Failing(RuntimeError("ours")))
    with pytest.raises(OSError, match="strange"):
        carry_out(Failing(OSError("strange")))


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(learned: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    # A limit on the size of files ends a write midway, as a full disk does.
    process = outside(
        [
            "generate",
            str(learned),
            "a <*> dog",
            "--steps",
            "1",
            "--negative",
            "",
            "--device",
            "cpu",
            "--out",
            str(films),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "The disk is full" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not [path for path in films.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, tiny_folder: Path, eyes: Path, photographs: Path) -> None:
    run = tmp_path / "rex-vcd"
    err = interrupted(learning(tiny_folder, eyes, photographs, tmp_path, "--steps", 100000), run, 2)
    assert f"starring learn --resume {run}" in err.splitlines()[-1]
    first = log_length(run)
    interrupted(["learn", "--resume", str(run), "--device", "cpu"], run, first)
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > first
