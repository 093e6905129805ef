"""Learning from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from starring.backbones.base import Backbone
from starring.cli.options import Machine, changed, chosen, pairs
from starring.config import to_json
from starring.errors import StarringError
from starring.methods import recipe
from starring.methods.vcd import NEGATIVE, VCDConfig
from starring.run import Run
from tests.cli.shell import Starring, learning, refused
from tests.data.pictures import album
from tests.tiny import tiny_animatediff


def test_one_corrupt_among_good_is_named_and_left_out(
    starring: Starring, tmp_path: Path, tiny_folder: Path, eyes: Path
) -> None:
    folder = album(tmp_path / "rex", 2)
    (folder / "broken.jpg").write_bytes(b"no")
    code, out, err = starring(*learning(tiny_folder, eyes, folder, tmp_path / "runs", "--steps", 1))
    assert code == 0, err
    assert "broken.jpg" in err
    assert "rex-vcd" in out


def test_learn_without_a_class_word_asks_for_it(starring: Starring, photographs: Path, tiny_folder: Path) -> None:
    refused(starring("learn", "vcd", photographs, "--backbone", tiny_folder), "--class-word")


def test_learn_needs_a_method_and_a_folder(starring: Starring) -> None:
    refused(starring("learn"), "starring learn METHOD FOLDER")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "fragments"), [
    (["vdc"], ["method 'vdc'", "Did you mean 'vcd'?"]),
    (["vcd", "--recipe", "vcd-20"], ["recipe 'vcd-20'", "Did you mean 'vcd-200'?"]),
    (["vcd", "--backbone", "animatedif"], ["backbone 'animatedif'", "Did you mean 'animatediff'?"]),
    (["vcd", "--options", "corelation=1"], ["'corelation'", "'correlation'"]),
    (["vcd", "--options", "correlation"], ["correlation", "key=value"]),
])  # fmt: skip
def test_unknown_names_get_the_nearest(
    starring: Starring, photographs: Path, tmp_path: Path, tiny_folder: Path, words: list[str], fragments: list[str]
) -> None:
    method, *rest = words
    rest = rest if "--backbone" in rest else [*rest, "--backbone", str(tiny_folder), "--segmenter", "none/such"]
    refused(
        starring("learn", method, photographs, "--class-word", "dog", "--size", 32, "--runs", tmp_path, *rest),
        *fragments,
    )
    assert not list(tmp_path.iterdir())


def test_a_learned_run_says_what_it_is(learned: Path) -> None:
    record = json.loads((learned / "config.json").read_text())
    assert learned.name == "rex-vcd"
    assert record["recipe"]["stages"][0]["train"]["steps"] == 2
    assert record["recipe"]["data"]["size"] == 32
    assert record["recipe"]["options"] == to_json(VCDConfig(class_word="dog"))
    assert record["subject"]["class_word"] == "dog"


@pytest.mark.slow
def test_a_run_brings_its_own_backbone(learned: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run, other = Run.open(learned), str(tiny_animatediff(tmp_path / "other", seed=1))
    assert run.record.origin == {"name_or_path": str(tiny_folder)}
    vae = {"name_or_path": str(tiny_folder), "vae": str(tiny_folder / "vae")}
    mixed = replace(run, record=replace(run.record, origin=vae))
    for options, learned_on, origin in (
        ({}, run, run.record.origin),
        ({}, mixed, vae),
        ({"base": other}, mixed, {**vae, "base": other}),
        ({"backbone": other}, mixed, {"name_or_path": other}),
    ):
        assert Machine(device="cpu", **options).load(learned_on).origin == origin


@pytest.mark.slow
def test_learning_twice_overwrites_nothing(
    starring: Starring, tmp_path: Path, tiny_folder: Path, eyes: Path, photographs: Path
) -> None:
    for _ in range(2):
        code, _, err = starring(*learning(tiny_folder, eyes, photographs, tmp_path, "--steps", 1))
        assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rex-vcd", "rex-vcd-2"]


def test_a_finished_run_can_be_resumed_without_harm(starring: Starring, learned: Path) -> None:
    before = (learned / "method.safetensors").read_bytes()
    code, _, err = starring("learn", "--resume", learned, "--device", "cpu")
    assert code == 0, err
    assert (learned / "method.safetensors").read_bytes() == before


def test_recipes_follow_the_backbone(own_tiny: Backbone) -> None:
    fitted = chosen("vcd", None)(own_tiny)
    assert (fitted.data.size, fitted.sample) == (None, replace(own_tiny.sample, negative=NEGATIVE))
    assert fitted.stages == recipe("vcd").stages
    for name, own in {"miniature": "vcd-miniature", "animatediff": "vcd"}.items():
        own_tiny.name = name
        assert chosen("vcd", None)(own_tiny) == recipe(own)
    assert chosen("vcd", "vcd-200")(own_tiny) == recipe("vcd-200")
    with pytest.raises(StarringError, match="Did you mean 'vcd-200'"):
        chosen("vcd", "vcd-20")


def test_settings_change_every_stage_and_nothing_else() -> None:
    before = recipe("vcd")
    after = changed(before, {"steps": 3, "batch": None}, {"flip": False}, {"correlation": 0.4})
    assert after.stages[0].train.steps == 3
    assert after.stages[0].train.batch == before.stages[0].train.batch
    assert (after.data.flip, before.data.flip) == (False, True)
    assert after.options["correlation"] == 0.4
    assert changed(before, {"steps": None}, {}, {}) == before


def test_pairs_read_json_and_words() -> None:
    assert pairs(["a=1", "b=0.5", "c=true", "d=rare", "e="]) == {"a": 1, "b": 0.5, "c": True, "d": "rare", "e": ""}
