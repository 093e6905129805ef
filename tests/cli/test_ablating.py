"""The verb that takes methods apart, and rewards on the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.shell import Starring, refused


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "one.txt"
    path.write_text("a <*> dog on the beach\n")
    return path


def asked(tiny: Path, eyes: Path, photographs: Path, suite: Path, *more: object) -> list[object]:
    return ["ablate", "bridgeiv", photographs, "--class-word", "dog", "--backbone", tiny, "--device", "cpu",
            "--recipe", "bridgeiv-miniature", "--train-steps", 1, "--steps", 2, "--suite", suite, "--judge", eyes,
            "--segmenter", eyes / "segmenter", "--encoder", eyes / "clip", "--out", suite.parent / "table",
            *more]  # fmt: skip


@pytest.mark.filterwarnings("ignore:No 'dog' was found")  # random eyes see what they will
@pytest.mark.slow
def test_a_table_is_shown_and_found_again(
    starring: Starring, tiny_folder: Path, eyes: Path, photographs: Path, suite: Path
) -> None:
    words = asked(tiny_folder, eyes, photographs, suite, "--reward", "iterations=1", "--options", "rank=2")
    code, out, err = starring(*words)
    assert code == 0, err
    for name in ("TI + DreamBooth", "SPM + TPM", "SPM + TPM + reward", "CLIP-T", "DINO-I", "Difference from"):
        assert name in out
    assert "Filming and scoring" in err
    for name in ("results.json", "table.md", "report.html"):
        assert str(suite.parent / "table" / name) in out
    saved = json.loads((suite.parent / "table" / "results.json").read_text())
    assert [row["reward"] and row["reward"]["iterations"] for row in saved["rows"]] == [None] * 4 + [1]
    again = starring(*words)
    assert (again[0], again[1]) == (0, out)
    refused(starring(*words[:-1], "rank=3"), "begun with another recipe")


def test_what_is_asked_for_wrongly_is_one_line(
    starring: Starring, tiny_folder: Path, eyes: Path, photographs: Path, suite: Path
) -> None:
    words = asked(tiny_folder, eyes, photographs, suite)
    refused(starring("ablate", "vdc", *words[2:]), "Did you mean 'vcd'")
    refused(starring(*words, "--reward", "iteration=1"), "Did you mean 'iterations'")
    refused(starring(*words, "--class-word", "dog", "cat"), "There are 2 class words for 1 subjects")


@pytest.mark.filterwarnings("ignore:No 'dog' was found")
@pytest.mark.slow
def test_a_film_is_rewarded_and_made_again(
    starring: Starring, learned: Path, eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eyes that suit the backbone are downloaded; here they are those of the tests.
    own = str(tiny_name(learned))
    monkeypatch.setattr("starring.perception.segment.SEGMENTERS", {own: str(eyes / "segmenter")})
    for module in ("starring.reward.eyes", "starring.perception.encoders"):
        monkeypatch.setattr(f"{module}.CLIPS", {own: str(eyes / "clip")})
    film = ["generate", learned, "a <*> dog on the beach", "--device", "cpu", "--negative", "", "--out", tmp_path]
    assert starring(*film, "--reward", "iterations=2")[0] == 0
    (sidecar,) = tmp_path.glob("*.json")
    facts = json.loads(sidecar.read_text())
    assert facts["method"]["reward"]["options"]["iterations"] == 2
    code, out, _ = starring("generate", "--from", sidecar, "--out", tmp_path / "again")
    assert (code, "Bit for bit the same film." in out) == (0, True)
    refused(starring(*film, "--reward", "iteration=2"), "Did you mean 'iterations'")
    refused(starring(*film, "--plain", "--reward"), "Film a run, with what it learned")


def tiny_name(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["origin"]["name_or_path"]
