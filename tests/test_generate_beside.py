"""Filming beside pictures of a subject: cut out, filmed, described, made again, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import PRESETS
from starring.data.cutouts import cut_out, on_white, read_cutout
from starring.errors import StarringError
from starring.generate import from_sidecar, generate
from starring.generate.again import reopened
from starring.generate.ask import prepared
from starring.generate.beside import beside
from starring.generate.films import Shooting, written
from starring.methods.customvideox import CustomVideoX
from starring.provenance import verify
from starring.refine.draw import Scene, face_vcd
from starring.refine.face import FaceOptions
from starring.run import Run
from tests.data.pictures import RedFinder, album
from tests.pairing import cutout, learned
from tests.refine.places import Known

PROMPT = "a dog running on the beach"


@pytest.fixture(scope="module")
def run(home: Path, dit: Backbone) -> Run:
    return learned(home, dit)


@pytest.fixture(scope="module")
def photograph(home: Path) -> Path:
    return album(home / "rex", 1) / "1.png"


class Blind(RedFinder):
    """Finds nothing."""

    def segment(self, images: list[Image.Image], text: str) -> list[Tensor]:
        return [torch.zeros(image.height, image.width) for image in images]


def test_a_film_beside_a_photograph(run: Run, dit: Backbone, photograph: Path, home: Path) -> None:
    """The reference is the cut-out's latents; the sidecar says what it was; the film can be made again."""
    seen = cutout(home / "dog.png", 1)
    (film,) = generate(run, PROMPT, backbone=dit, reference=seen, entity="dog")
    (other,) = generate(run, PROMPT, backbone=dit, reference=cutout(home / "cat.png", 3), entity="dog", write=False)
    assert film.frames.shape == (9, 32, 32, 3)
    assert (film.frames != other.frames).any()
    assert film.path is not None
    assert film.path.parent == run.videos
    shown = film.facts["beside"]
    assert shown["entity"] == "dog"
    assert [each["file"] for each in shown["pictures"]] == [str(seen.resolve())]
    assert shown["segmenter"] is None, "a transparent picture is cut out already"
    assert film.sidecar is not None
    again = from_sidecar(film.sidecar, backbone=dit, write=False)
    assert again.notes == ()
    assert np.array_equal(again.frames, film.frames)
    assert verify(film.path, dit).possible
    cutout(seen, 2)
    found = verify(film.path, dit)
    assert "picture 1 of its subject (another)" in found.conclusion
    with pytest.raises(StarringError, match="has changed since"):
        from_sidecar(film.sidecar, backbone=dit, write=False)


def test_who_cuts_the_subject_out(run: Run, dit: Backbone, photograph: Path, home: Path) -> None:
    finder = RedFinder()
    (cut,) = generate(run, PROMPT, backbone=dit, reference=photograph, entity="dog", segmenter=finder, write=False)
    assert cut.facts["beside"]["segmenter"] == {"name": None, "id": finder.id}
    kept = written(cut, home / "films")
    assert kept.path is not None
    assert "who cut its subject out (gone)" in verify(kept.path, dit).conclusion
    with pytest.raises(StarringError, match="by a segmenter that was in memory only"):
        from_sidecar(kept.path, backbone=dit, write=False)
    (mask,) = finder.segment([Image.open(photograph)], "dog")
    by_hand = home / "by-hand.png"
    cut_out(Image.open(photograph), mask).save(by_hand)
    (same, whole) = (
        generate(run, PROMPT, backbone=dit, reference=path, entity="dog", segmenter="none", write=False)[0]
        for path in (by_hand, photograph)
    )
    assert np.array_equal(same.frames, cut.frames)
    assert (whole.frames != cut.frames).any()
    with pytest.raises(StarringError, match=r"No 'dog' was found in .*1\.png .*--segmenter none"):
        generate(run, PROMPT, backbone=dit, reference=photograph, entity="dog", segmenter=Blind(), write=False)


def test_several_pictures_are_several_frames(
    run: Run, dit: Backbone, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    generate_one = CustomVideoX.generate

    def watched(self: CustomVideoX, backbone: Backbone, request: object) -> Tensor:
        shapes.append(tuple(request.reference.shape))  # type: ignore[attr-defined]
        return generate_one(self, backbone, request)  # type: ignore[arg-type]

    monkeypatch.setattr(CustomVideoX, "generate", watched)
    one, two = cutout(home / "one.png", 1), cutout(home / "two.png", 2)
    generate(run, PROMPT, backbone=dit, reference=[one, two], entity="dog", write=False)
    c, _, h, w = dit.latent_shape(1, 32, 32)
    assert shapes == [(1, c, 2, h, w)]


def test_a_cutout_is_encoded_on_white_at_the_film_s_size(run: Run, dit: Backbone, home: Path) -> None:
    path = cutout(home / "disc.png", 1)
    shared = beside(prepared(run, backbone=dit), [PROMPT], [path], "dog")
    with torch.no_grad():
        expected = dit.encode_video(on_white(read_cutout(path), (32, 32))[None])
    assert shared.reference is not None
    assert torch.equal(shared.reference, expected)


def test_a_film_is_refined_beside_the_same_pictures(run: Run, dit: Backbone, home: Path) -> None:
    seen = cutout(home / "refined.png", 1)
    (film,) = generate(run, PROMPT, backbone=dit, reference=seen, entity="dog", sample={"steps": 2})
    assert film.path is not None
    shared, finder = reopened(film.path, film.facts, dit), Known([[(12, 12, 5, 5)]] * 9)
    assert shared.reference is not None

    def refined(shared: Shooting) -> NDArray[np.uint8]:
        scene = Scene(shared=shared, prompt=PROMPT, seed=3, tell=lambda what, step, steps: None)
        return face_vcd(scene, film.frames, finder, FaceOptions(strength=0.8)).frames

    made, other = refined(shared), refined(replace(shared, reference=torch.zeros_like(shared.reference)))
    assert (made != film.frames).any()
    assert (made != other).any(), "the face is drawn beside the picture too"


@pytest.mark.parametrize(("change", "fragment"), [
    ({"entity": "robot"}, "'robot' is not in the prompt, whose words are: a, dog, running, on, the, beach"),
    ({"entity": "run"}, "'run' is not in the prompt"),
    ({"entity": ""}, "--entity toy"),
    ({"reference": None}, "--reference"),
    ({"reference": "none.png"}, "There is no picture none.png"),
    ({"sample": {"frames": 10}}, "Nearest: 9 or 17"),
    ({"sample": {"height": 20}}, "Nearest: 16 or 24"),
])  # fmt: skip
def test_what_is_refused(change: dict[str, object], fragment: str, run: Run, dit: Backbone, home: Path) -> None:
    asked = {"reference": cutout(home / "asked.png", 1), "entity": "dog", **change}
    with pytest.raises(StarringError) as refusal:
        generate(run, PROMPT, backbone=dit, write=False, **asked)  # type: ignore[arg-type]
    assert fragment in str(refusal.value)


@pytest.mark.parametrize(("mode", "shade", "segmenter"), [
    ("RGBA", (255, 0, 0, 0), None), ("RGBA", (255, 0, 0, 0), "none"), ("RGB", (255, 255, 255), "none"),
    ("RGB", (255, 255, 255), None),
])  # fmt: skip
def test_a_picture_of_nothing_is_told(
    mode: str, shade: tuple[int, ...], segmenter: str | None, run: Run, dit: Backbone, tmp_path: Path
) -> None:
    Image.new(mode, (40, 40), shade).save(tmp_path / "blank.png")
    with pytest.raises(StarringError, match=r"blank\.png is .*, so it shows nothing"):
        generate(
            run, PROMPT, backbone=dit, reference=tmp_path / "blank.png", entity="dog", segmenter=segmenter, write=False
        )


def test_weights_of_another_size_are_refused_with_both(run: Run, dit: Backbone, tmp_path: Path) -> None:
    options = {**run.record.recipe.options, "rank": 3}
    other = replace(run, record=replace(run.record, recipe=replace(run.record.recipe, options=options)))
    learned_on = re.escape(run.record.origin["name_or_path"])
    said = rf"rank 2 for 8 layers of width 32.* needs .*rank 3 for 8 layers.*learned on {learned_on}"
    with pytest.raises(StarringError, match=said):
        generate(other, PROMPT, backbone=dit, reference=cutout(tmp_path / "a.png", 1), entity="dog", write=False)


def test_a_method_by_its_name(run: Run, dit: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ships with a backbone is filmed by the method's name; what does not ship is to be trained."""
    seen = cutout(tmp_path / "dog.png", 1)
    with pytest.raises(StarringError, match=r"ships for the backbone cogvideox-5b.*starring learn customvideox"):
        generate("customvideox", PROMPT, backbone="cogvideox-5b", reference=seen, entity="dog")
    with pytest.raises(StarringError, match=r"'vcd' is learned anew for each subject: starring learn vcd FOLDER"):
        generate("vcd", "a <*> dog", backbone=dit)
    mine = replace(PRESETS["miniature-dit"], learned={"customvideox": str(tmp_path / "none")})
    monkeypatch.setitem(PRESETS, "miniature-dit", mine)
    with pytest.raises(StarringError, match=r"Train it: python -m starring\.miniature build pairs adapter"):
        generate("customvideox", PROMPT, reference=seen, entity="dog")
    monkeypatch.setitem(PRESETS, dit.name, replace(mine, learned={"customvideox": str(run.folder)}))
    monkeypatch.chdir(tmp_path)
    (film,) = generate("customvideox", PROMPT, backbone=dit, reference=seen, entity="dog")
    assert film.path == Path("videos") / film.path.name if film.path else False
