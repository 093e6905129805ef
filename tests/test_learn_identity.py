"""Whom a reward is to know: photographs of people, as `starring learn` reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.backbones.animatediff import AnimateDiff, linear_ddim
from starring.backbones.base import Backbone
from starring.cli.learning import Learn
from starring.config import Recipe
from starring.data.subject import Complaint, Subject
from starring.errors import StarringError
from starring.learn import learn
from starring.learn.identity import identity_of, recognized
from starring.perception.faces import YuNet
from starring.perception.identity import AlignedFaces, IdentityEyes
from tests.perception.test_identity import faces
from tests.perception.tiny_identity import tiny_identity_eyes, tiny_iresnet
from tests.refine.tiny_yunet import tiny_yunet
from tests.test_recipes import Ellipse, shrunk, subject


def people(folder: Path, *pictures: Tensor) -> Subject:
    """Photographs 64 x 64 of red faces."""
    folder.mkdir()
    for i, picture in enumerate(pictures):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return Subject.from_folder(folder, class_word="dog")


def on(picture: Tensor, green: float, blue: float = 0.0) -> Tensor:
    """The same faces on other ground; none of it is red, which the tiny detector takes for more of them."""
    ground = torch.tensor([0.0, green, blue])[:, None, None]
    return torch.where(picture.amax(0) > 0, picture, ground)


class Seeing:
    """Two kinds of people: those on green ground, and those on blue."""

    id = protocol = "seeing"
    side = 32

    def images(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.normalize(pixels.mean((2, 3))[:, 1:], dim=-1)

    def to(self, *_: object) -> Seeing:
        return self


@pytest.fixture
def by_name(tmp_path: Path) -> dict[str, Any]:
    """Eyes of the real classes, as a person names them."""
    torch.save(tiny_iresnet().state_dict(), tmp_path / "r100.pth")
    return {"eyes": f"{tiny_yunet(tmp_path / 'yunet.onnx')}+{tmp_path / 'r100.pth'}", "accept_licence": True}


def asked(options: dict[str, Any], folder: Path, frames: int) -> Recipe:
    small = shrunk("personalvideo", folder, frames)
    return replace(small, options={**small.options, **options})


def test_a_face_among_several_is_asked_for_before_there_is_a_run(
    tiny: Backbone, by_name: dict[str, Any], tmp_path: Path
) -> None:
    one, two = faces((16, 24)), faces((0, 8), (40, 48))
    who = people(tmp_path / "who", one, two, on(one, 0.1))
    small = asked(by_name, tmp_path, tiny.sample.frames)
    with pytest.raises(StarringError, match=r"1\.png shows 2 faces.*--face largest"):
        learn("personalvideo", who, tiny, small, tmp_path / "runs", segmenter=Ellipse())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_face_that_is_named_is_the_one_that_rewards(
    tiny: Backbone, by_name: dict[str, Any], tmp_path: Path
) -> None:
    who = people(tmp_path / "who", faces((0, 8), (40, 48)))
    found: dict[str, Tensor] = {}
    for face in ("largest", "0", "1"):
        chosen = asked({**by_name, "face": face}, tmp_path, tiny.sample.frames)
        identity = identity_of(who, tiny, chosen, None, None, lambda _: None)
        assert identity is not None
        found[face] = identity.references
    assert torch.equal(found["largest"], found["0"])
    assert not torch.equal(found["0"], found["1"])
    chosen = asked({**by_name, "face": "largest"}, tmp_path, tiny.sample.frames)
    run = learn("personalvideo", who, tiny, chosen, tmp_path / "runs", segmenter=Ellipse())
    assert run.finished
    assert run.record.recipe.options["face"] == "largest"


def test_the_flag_is_the_option() -> None:
    from starring.cli.options import pairs

    assert pairs(("rank=4",)) | {"face": "1"} == Learn(options=("rank=4",), face="1").given
    assert Learn(options=("rank=4",)).given == {"rank": 4}


def test_somebody_else_among_them_is_named(tiny: Backbone, tmp_path: Path) -> None:
    """Whoever the encoder finds unlike the others, that is; three photographs cannot tell."""

    one = faces((16, 24))
    pictures, other = [on(one, 0.3 + 0.02 * i) for i in range(4)], on(one, 0.0, 0.9)
    eyes = IdentityEyes(finder=AlignedFaces(YuNet(tiny_yunet(tmp_path / "yunet.onnx"))), encoder=Seeing())
    heard: list[Complaint] = []

    def told(who: Subject) -> list[str]:
        heard.clear()
        chosen = asked({}, tmp_path, tiny.sample.frames)
        identity_of(who, tiny, chosen, eyes, None, lambda p: heard.append(p.complaint) if p.complaint else None)
        assert all(each.kind == "outlier" for each in heard)
        return [each.path.name for each in heard]

    assert told(people(tmp_path / "one", *pictures)) == []
    assert told(people(tmp_path / "two", *pictures[:2], other, *pictures[2:])) == ["2.png"]
    assert told(people(tmp_path / "few", *pictures[:2], other)) == []


def test_the_doctor_says_what_a_reward_could_not_be_learned_with(tmp_path: Path) -> None:
    """All of it at once, in the order of the photographs, where learning stops at the first."""
    one, two, nobody = faces((16, 24)), faces((0, 8), (40, 48)), faces()
    eyes = IdentityEyes(finder=AlignedFaces(YuNet(tiny_yunet(tmp_path / "yunet.onnx"))), encoder=Seeing())
    alike = [on(one, 0.3 + 0.02 * i) for i in range(4)]
    who = people(tmp_path / "who", on(two, 0.3), on(one, 0.0, 0.9), *alike, on(nobody, 0.3))
    told = recognized(who, eyes)
    assert [(each.path.name, each.kind) for each in told] == [
        ("0.png", "identity"), ("1.png", "outlier"), ("6.png", "identity"),
    ]  # fmt: skip
    assert "2 faces" in told[0].message
    assert "--face largest" in told[0].advice
    assert "No face" in told[2].message
    assert [each.path.name for each in recognized(who, eyes, "largest")] == ["1.png", "6.png"]
    assert recognized(people(tmp_path / "good", *alike), eyes) == []


def test_films_of_too_few_steps_are_told(tiny: Backbone, tmp_path: Path) -> None:
    """A reward looks at films of four steps, which a model made for 25 cannot draw."""
    assert isinstance(tiny, AnimateDiff)
    backbone = AnimateDiff(
        denoiser=tiny.denoiser, vae=tiny.vae, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer,
        scheduler=linear_ddim(), sample=replace(tiny.sample, steps=25),
    )  # fmt: skip

    def told(chosen: Recipe, on: Backbone) -> str:
        heard: list[str] = []
        identity_of(subject(), on, chosen, tiny_identity_eyes(), None, lambda p: heard.append(p.note))
        return "".join(heard)

    small = asked({}, tmp_path, tiny.sample.frames)
    assert "films of 4 steps by" in told(small, backbone)
    assert not told(small, tiny)
    assert not told(replace(small, options={**small.options, "steps": 13}), backbone)
    words, adapter = small.stages
    assert not told(replace(small, stages=(words, replace(adapter, backbone="animatelcm"))), backbone)
