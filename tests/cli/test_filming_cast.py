"""Several subjects in one film, and a film made again elsewhere, from the command line."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from starring.config import to_json
from starring.run import Run
from tests.cli.shell import Starring, refused
from tests.test_generate import make_run

SHORT = ("--steps", 1, "--negative", "", "--device", "cpu")


@pytest.fixture(scope="session")
def robot(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run on the same backbone, of a robot called bolt."""
    from starring.backbones.presets import load_backbone

    backbone = load_backbone(**Run.open(learned).record.origin, device="cpu")
    made = make_run(tmp_path_factory.mktemp("cast") / "runs", backbone, seed=2)
    about = replace(made.record.subject, name="bolt", class_word="robot")
    record = replace(made.record, subject=about)
    made.folder.joinpath("config.json").write_text(json.dumps(to_json(record)))
    return made.folder


@pytest.mark.slow
def test_two_runs_in_one_film(starring: Starring, learned: Path, robot: Path, tmp_path: Path) -> None:
    prompt = "a <dog> dog and a <robot> robot"
    code, out, err = starring("generate", learned, prompt, "--with", robot, *SHORT, "--out", tmp_path / "films")
    assert code == 0, err
    assert "beyond the papers" in err
    (film,) = (tmp_path / "films").glob("*.mp4")
    assert str(film) in out
    members = json.loads(film.with_suffix(".json").read_text())["method"]["members"]
    assert list(members) == ["<dog>", "<robot>"]
    assert [member["learned"]["subject"]["name"] for member in members.values()] == ["rex", "bolt"]
    for options in ((), ("--device", "cpu")):
        code, out, err = starring("generate", "--from", film, *options, "--out", tmp_path / f"again{len(options)}")
        assert code == 0, err
        assert "Bit for bit" in out


@pytest.mark.parametrize(("words", "fragments"), [
    (["a <*> dog"], ["where <robot> should be"]),
    (["a <dog> dog and a <cat> cat and a <robot> robot"], ["<cat>"]),
    (["a <dog> dog and a <robot> robot", "--plain"], ["several runs, customized"]),
    (["a <dog> dog and a <robot> robot", "--reward"], ["one subject"]),
])  # fmt: skip
def test_what_two_runs_cannot_do(
    starring: Starring, learned: Path, robot: Path, tmp_path: Path, words: Sequence[str], fragments: Sequence[str]
) -> None:
    refused(starring("generate", learned, *words, "--with", robot, *SHORT, "--out", tmp_path), *fragments)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_named_twice_or_is_none(starring: Starring, learned: Path, tmp_path: Path) -> None:
    prompt = "a <dog> dog and a <robot> robot"
    refused(starring("generate", learned, prompt, "--with", learned, *SHORT), "Two subjects would both be")
    refused(starring("generate", learned, prompt, "--with", tmp_path, *SHORT), "is not a run")


@pytest.mark.slow
def test_a_film_in_half_precision_is_made_again_in_it(starring: Starring, learned: Path, tmp_path: Path) -> None:
    code, _, err = starring("generate", learned, "a <*> dog", *SHORT, "--dtype", "bf16", "--out", tmp_path / "films")
    assert code == 0, err
    (film,) = (tmp_path / "films").glob("*.mp4")
    code, out, err = starring("generate", "--from", film, "--device", "cpu", "--out", tmp_path / "again")
    assert code == 0, err
    assert "Bit for bit" in out
    code, out, err = starring(
        "generate", "--from", film, "--device", "cpu", "--dtype", "fp32", "--out", tmp_path / "other"
    )
    assert code == 0, err
    assert "another value of the precision: bfloat16; now float32" in err
    code, out, err = starring("refine", film, "--tiles", 2, "--device", "cpu", "--out", tmp_path / "larger")
    assert code == 0, err
    (larger,) = (tmp_path / "larger").glob("*.json")
    assert json.loads(larger.read_text())["backbone"]["dtype"] == "bfloat16"


def test_a_device_that_is_not_there(starring: Starring, learned: Path, tmp_path: Path) -> None:
    code, _, err = starring("generate", learned, "a <*> dog", *SHORT, "--out", tmp_path / "films")
    assert code == 0, err
    (film,) = (tmp_path / "films").glob("*.mp4")
    refused(starring("generate", "--from", film, "--device", "tpu9"), "tpu9")
    refused(starring("generate", "--from", tmp_path / "none.json", "--device", "cpu"), "none.json")
