"""Who cuts masks, and in which precision a backbone learns: noted in the run, and the same when it goes on."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.cli import main
from starring.config import Stage
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.learn import Progress, learn, resume
from starring.learn.prepare import choose_segmenter
from starring.perception import segment
from starring.perception.segment import First, load_segmenter
from starring.run import Run
from tests.data.pictures import RedFinder, album
from tests.perception.tiny_eyes import tiny_segmenter
from tests.training import RECIPE, TRAIN, begin, state_of

SHORT = replace(RECIPE, stages=(Stage(name="tokens", train=replace(TRAIN, steps=1)),))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return album(tmp_path_factory.mktemp("album") / "ball", 3, (64, 64))


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_segmenter(tmp_path_factory.mktemp("eyes") / "cutter")


def short(photographs: Path, backbone: Backbone, runs: Path, **options: Any) -> Run:
    return learn("vcd", Subject.from_folder(photographs, "dog", "ball"), backbone, SHORT, runs, **options)


def strike(progress: Progress) -> None:
    """Stop after the first mask."""
    if (progress.phase, progress.step) == ("masks", 1):
        signal.raise_signal(signal.SIGINT)


def test_a_named_segmenter_is_taken_again(
    photographs: Path, cutter: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cutter.parent)
    with pytest.raises(Interrupted) as stopped:
        short(photographs, tiny, tmp_path, segmenter="cutter", on_progress=strike)
    folder = tmp_path / "ball-vcd"
    assert str(stopped.value).endswith(f"starring learn --resume {folder} --segmenter {cutter}")
    monkeypatch.chdir(tmp_path)
    undisturbed = short(photographs, tiny, tmp_path / "other", segmenter=str(cutter))
    with pytest.raises(StarringError, match=rf"begun by clipseg\(.*not by red-finder/1\. Go on with.*{cutter}"):
        resume(folder, tiny, segmenter=RedFinder())
    assert state_of(resume(folder, tiny)) == state_of(undisturbed)


def test_a_segmenter_that_was_an_object_is_asked_for_again(
    photographs: Path, cutter: Path, own_tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENTERS", {"miniature": str(cutter)})
    own_tiny.name = "miniature"  # whose own segmenter is at hand
    with pytest.raises(Interrupted, match=r"--resume \S*ball-vcd$"):
        short(photographs, own_tiny, tmp_path, segmenter=RedFinder(), on_progress=strike)
    folder = tmp_path / "ball-vcd"
    before = {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}
    with pytest.raises(StarringError, match=r"begun by red-finder/1, not by clipseg.*pass the same one"):
        resume(folder, own_tiny)
    assert {path.name: path.read_bytes() for path in (folder / "masks").iterdir()} == before
    assert resume(folder, own_tiny, segmenter=RedFinder()).finished


def test_the_backbones_own_segmenter_must_still_be_the_same(
    photographs: Path, cutter: Path, own_tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENTERS", {"miniature": str(cutter)})
    own_tiny.name = "miniature"
    with pytest.raises(Interrupted, match=r"--resume \S*ball-vcd$"):
        short(photographs, own_tiny, tmp_path, on_progress=strike)
    monkeypatch.setattr(segment, "SEGMENTERS", {"miniature": str(tiny_segmenter(tmp_path / "new", seed=5))})
    with pytest.raises(StarringError, match=r"not all cut, and were begun by clipseg.*not by clipseg"):
        resume(tmp_path / "ball-vcd", own_tiny)
    monkeypatch.setattr(segment, "SEGMENTERS", {"miniature": str(cutter)})
    assert resume(tmp_path / "ball-vcd", own_tiny).finished


@pytest.mark.slow
def test_another_precision_is_refused(
    photographs: Path, tiny: Backbone, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = load_backbone(tiny_folder, device="cpu", dtype="bf16")
    run = begin(photographs, tiny, tmp_path, SHORT)
    assert run.resume_command == f"starring learn --resume {run.folder}"
    with pytest.raises(StarringError, match=r"in the precision float32, not in bfloat16.*--dtype float32"):
        resume(run.folder, half)
    halved = begin(photographs, half, tmp_path, SHORT)
    assert halved.resume_command.endswith("--dtype bfloat16")
    for words, code in (((), 0), (("--dtype", "fp32"), 2)):
        with pytest.raises(SystemExit) as end:
            main(["learn", "--resume", str(halved.folder), "--device", "cpu", *words])
        assert (end.value.code or 0) == code
    assert "precision bfloat16" in capsys.readouterr().err


def test_older_runs_say_neither_and_go_on(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        begin(photographs, tiny, tmp_path, SHORT, on_progress=strike)
    path = tmp_path / "ball-vcd" / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("segmenter") == {"name": None, "id": "red-finder/1"}
    assert values.pop("dtype") == "float32"
    path.write_text(json.dumps(values))
    assert resume(path.parent, tiny, segmenter=RedFinder()).finished


def test_the_first_instance_of_a_segmenter_that_is_an_object(photographs: Path, cutter: Path, tiny: Backbone) -> None:
    recipe = replace(SHORT, data=replace(SHORT.data, instance="first"))
    subject, given = Subject.from_folder(photographs, "dog"), load_segmenter(str(cutter))
    chosen = choose_segmenter(given, subject, tiny, recipe, None)
    assert isinstance(chosen, First)
    assert chosen.inner is given
    assert choose_segmenter(given, subject, tiny, SHORT, None) is given
    with pytest.raises(StarringError, match=r"red-finder/1 does not tell instances apart"):
        choose_segmenter(RedFinder(), subject, tiny, recipe, None)
