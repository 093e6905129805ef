"""Options as people give them, and as a run's record holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from starring.backbones.base import Backbone
from starring.cli.options import changed, pairs
from starring.data.simulated import simulated
from starring.errors import StarringError
from starring.learn import learn
from starring.learn.identity import written_out
from tests.perception.tiny_identity import tiny_identity_eyes
from tests.test_recipes import Ellipse, shrunk, subject

FIELDS = {"prompts", "simulated", "world", "face"}
OWN = ["a <*> dog, asleep", "a <*> dog in the rain"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("# of mine\n\n" + "\n".join(OWN) + "\n")
    return path


def test_prompts_are_written_read_or_none(mine: Path) -> None:
    def prompts(**options: object) -> object:
        return written_out(options, FIELDS, "dog")["prompts"]

    assert prompts() == list(simulated("dog", 50))
    assert prompts(simulated=3) == list(simulated("dog", 3))
    assert prompts(prompts=OWN) == prompts(prompts=str(mine)) == OWN
    for given in ([], OWN, str(mine)):
        assert prompts(simulated=0, prompts=given) == [], "without augmentation is without, whoever gave prompts"
    assert "prompts" not in written_out({"simulated": "many"}, FIELDS, "dog"), "which is told as no number"
    assert written_out({"prompts": str(mine)}, {"vectors"}, "dog") == {"prompts": str(mine)}, "not this method's"


def test_a_file_of_prompts_that_is_none(mine: Path) -> None:
    with pytest.raises(StarringError, match=r"no prompt file .*yours\.txt"):
        written_out({"prompts": str(mine.with_name("yours.txt"))}, FIELDS, "dog")
    mine.write_text("a <*> dog\na dog in the rain\n")
    with pytest.raises(StarringError, match="'a dog in the rain' does not say where the subject goes"):
        written_out({"prompts": str(mine)}, FIELDS, "dog")


def test_a_face_is_text_or_a_number() -> None:
    assert written_out({"face": 1}, FIELDS, "dog")["face"] == "1"
    assert written_out({"face": "largest"}, FIELDS, "dog")["face"] == "largest"
    assert written_out({"face": True}, FIELDS, "dog")["face"] is True, "which is told as no text"


@pytest.mark.slow
def test_a_run_takes_them_from_the_command_line(tiny: Backbone, mine: Path, tmp_path: Path) -> None:
    small = shrunk("personalvideo", tmp_path, tiny.sample.frames)
    recipe = changed(small, {}, {}, pairs([f"prompts={mine}", "face=1"]))
    run = learn("personalvideo", subject(), tiny, recipe, tmp_path, segmenter=Ellipse(), eyes=tiny_identity_eyes())
    assert run.record.recipe.options["prompts"] == OWN
    assert run.record.recipe.options["face"] == "1"
    taken = learn(
        "personalvideo", subject(), tiny, recipe, tmp_path, tokens=run.folder, segmenter=Ellipse(),
        eyes=tiny_identity_eyes(),
    )  # fmt: skip
    assert taken.record.recipe.options["prompts"] == OWN, "also where words are taken over"
