"""A corpus of pairs from the command line: learned, filmed, refused."""

import json
from pathlib import Path

import pytest

from starring.backbones.base import Backbone
from starring.backbones.presets import MINIATURE_ADAPTER, MINIATURE_DIT
from starring.run import Run
from tests.cli.shell import Starring, refused
from tests.pairing import cutout, listed, pairs, rows_of

SHIPPED = (MINIATURE_DIT / "transformer").is_dir() and MINIATURE_ADAPTER.is_dir()
TRAIN = ("--steps", 1, "--precision", "no", "--options", "rank=2")


@pytest.mark.slow
def test_learn_film_and_what_is_refused(starring: Starring, dit: Backbone, photographs: Path, tmp_path: Path) -> None:
    place, seen = pairs(tmp_path / "pairs", 3), cutout(tmp_path / "dog.png", 1)
    (place / "clips" / "1.mp4").write_bytes(b"no film")
    machine = ("--backbone", dit.source, "--device", "cpu", "--runs", tmp_path / "runs")
    code, out, err = starring("learn", "customvideox", "--data", place, *machine, *TRAIN)
    assert code == 0, err
    assert "1.mp4: it was left out" in " ".join(err.split())
    assert "--reference toy.jpg --entity toy" in " ".join(err.split())
    folder = tmp_path / "runs" / "pairs-customvideox"
    assert str(folder) in out
    assert Run.open(folder).finished
    other = cutout(tmp_path / "other.png", 2)
    words = ("--reference", seen, "--reference", other, "--device", "cpu", "--out", tmp_path / "films")
    code, out, err = starring("generate", folder, *words, "--entity", "dog", "a dog running on the beach")
    assert code == 0, err
    (sidecar,) = (tmp_path / "films").glob("*.json")
    shown = json.loads(sidecar.read_text())["beside"]["pictures"]
    assert [Path(each["file"]).name for each in shown] == ["dog.png", "other.png"]
    code, out, err = starring("generate", "--from", sidecar)
    assert code == 0, err
    assert "Bit for bit" in out
    refused(starring("generate", folder, *words, "--entity", "robot", "a dog running"), "not in the prompt")
    refused(starring("generate", folder, "a dog running", "--device", "cpu"), "--reference")
    refused(starring("generate", "vcd", "a <*> dog"), "learned anew for each subject")
    refused(starring("learn", "customvideox", photographs, "--data", place, *machine), "and not both")
    refused(starring("learn", "vcd", "--data", place, *machine), "Pairs are for customvideox")
    refused(starring("learn", "customvideox", photographs, "--class-word", "dog", *machine), "--data pairs/")
    refused(starring("learn", "customvideox", "--data", place, "--validate-every", 5, *machine), "pairs show many")
    refused(starring("learn", "customvideox", "--data", photographs, *machine), "metadata.jsonl")
    refused(starring("learn", "--resume", folder, "--data", place), "Leave them out")
    listed(place, [{**rows_of(place)[0], "entity": "robot"}])
    refused(starring("learn", "customvideox", "--data", place, *machine), "does not name the entity 'robot'")


@pytest.mark.slow
def test_one_photograph_and_the_method_s_name_make_a_film(starring: Starring, tmp_path: Path) -> None:
    """Out of the box; as long as no adapter ships, what is missing is said, and how to train it."""
    seen = cutout(tmp_path / "dog.png", 1)
    words = ("generate", "customvideox", "--reference", seen, "--entity", "dog", "--out", tmp_path / "films",
             "--steps", 1, "a dog running on the beach")  # fmt: skip
    if not SHIPPED:
        refused(starring(*words), "Train it: python -m starring.miniature build")
        return
    code, _, err = starring(*words)
    assert code == 0, err
    (sidecar,) = (tmp_path / "films").glob("*.json")
    assert json.loads(sidecar.read_text())["beside"]["entity"] == "dog"
    assert len(list((tmp_path / "films").glob("*.mp4"))) == 1
