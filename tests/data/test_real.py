"""Real photographs and clips, where they lie beside the checkout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import ImageFilter

from starring.backbones.base import Backbone
from starring.data.subject import Subject, complaints
from starring.data.video import read_video, write_video
from starring.learn import Progress, learn
from tests.data.pictures import RedFinder
from tests.training import RECIPE, TRAIN

REAL = Path(__file__).parents[3] / "shared" / "data"
PHOTOGRAPHS = sorted(p for p in (REAL / "dreambooth").glob("*") if p.is_dir())
CLIPS = sorted((REAL / "motion").glob("*.avi"))

pytestmark = pytest.mark.skipif(not (PHOTOGRAPHS and CLIPS), reason=f"no real photographs and clips in {REAL.name}/")


@pytest.mark.slow
def test_nothing_is_wrong_with_good_photographs() -> None:
    for folder in PHOTOGRAPHS:
        subject = Subject.from_folder(folder, "thing")
        assert len(subject) >= 4
        assert not subject.skipped
        assert complaints(subject, size=512) == []


@pytest.mark.slow
def test_what_was_done_to_them_is_found(tmp_path: Path) -> None:
    subject = Subject.from_folder(PHOTOGRAPHS[0], "thing")
    for i, image in enumerate(subject.images):
        image.save(tmp_path / f"{i}.png")
    subject.images[0].filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "blurred.png")
    subject.images[1].resize((600, 600)).save(tmp_path / "copy.jpg", quality=70)
    subject.images[2].resize((200, 200)).save(tmp_path / "small.png")
    told = complaints(Subject.from_folder(tmp_path, "thing"), size=512)
    found = {(c.path.name, c.kind) for c in told}
    assert found == {
        ("blurred.png", "blurred"), ("blurred.png", "duplicate"), ("copy.jpg", "duplicate"),
        ("small.png", "small"), ("small.png", "duplicate"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS, ids=lambda p: p.stem)
def test_clips_are_read_and_written_again(clip: Path, tmp_path: Path) -> None:
    read = read_video(clip, frames=16, every=3, size=(64, 64))
    assert read.pixels.shape == (1, 3, 16, 64, 64)
    assert read.fps == pytest.approx(25 / 3, rel=0.01)
    assert read.pixels.std() > 0.1
    again = read_video(write_video(tmp_path / "a.mp4", read.pixels, fps=read.fps, crf=8))
    assert (again.pixels - read.pixels).abs().mean() < 0.05
    whole = read_video(clip)
    assert whole.pixels.shape[-2:] == (240, 320)
    assert torch.equal(read_video(clip, frames=2, start=5).pixels, whole.pixels[:, :, 5:7])


def test_real_photographs_are_learned_and_a_blind_segmenter_is_told(tiny: Backbone, tmp_path: Path) -> None:
    subject = Subject.from_folder(PHOTOGRAPHS[0], "thing")
    heard: list[Progress] = []
    recipe = replace(RECIPE, stages=(replace(RECIPE.stages[0], train=replace(TRAIN, steps=2)),))
    run = learn("vcd", subject, tiny, recipe, tmp_path, segmenter=Nobody(), on_progress=heard.append)
    assert run.finished
    assert [c.kind for p in heard if (c := p.complaint)] == ["unmasked"]


class Nobody(RedFinder):
    """A segmenter that knows a world without such things."""

    def segment(self, images: list, text: str) -> list[torch.Tensor]:  # type: ignore[type-arg]
        return [torch.zeros(image.height, image.width) for image in images]
