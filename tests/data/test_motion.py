"""Clips of a motion: every layout, speed and shape, and everything that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starring.data.motion import Motion, framed
from starring.errors import StarringError
from tests.moving import clip, clips


def test_layouts(tmp_path: Path) -> None:
    home = tmp_path / "guitar"
    for name in ("b", "a"):
        clip(home / "videos" / f"{name}.mp4", 3)
    (home / "videos.txt").write_text("videos/b.mp4\nvideos/a.mp4\n")
    (home / "prompts.txt").write_text("one\ntwo")
    listed = Motion.read(home)
    assert [(path.name, says) for path, says in zip(listed.paths, listed.captions, strict=True)] == [
        ("b.mp4", "one"), ("a.mp4", "two")
    ]  # fmt: skip
    assert (listed.name, len(set(listed.digests))) == ("guitar", 1), "the two clips are the same film"
    (home / "videos.txt").unlink()
    assert [path.name for path in Motion.read(home).paths] == ["a.mp4", "b.mp4"]
    (home / "prompts.txt").unlink()
    assert Motion.read(home, "a man").captions == ["a man"] * 2
    single = clip(tmp_path / "jump.mp4", 3)
    single.with_suffix(".txt").write_text("a dog\njumping")
    assert Motion.read(single).captions == ["a dog jumping"]


@pytest.mark.parametrize(("pace", "numbers"), [("first", [0, 1, 2, 3, 4]), ("film", [0, 3, 6, 9, 12])])
def test_speeds(tmp_path: Path, pace: str, numbers: list[int]) -> None:
    motion = Motion.read(clip(tmp_path / "fast.mp4", 14, fps=25), "x")
    assert motion.numbers(0, 5, 8, pace) == numbers
    frames = motion.frames(0, numbers)
    where = [int(np.asarray(frame)[17, :, 0].astype(int).argmax()) for frame in frames]
    assert where == sorted(where)
    assert where[-1] - where[0] == pytest.approx((numbers[-1] - numbers[0]) * 50 / 14, abs=6)


@pytest.mark.parametrize(("fit", "corner", "share"), [("letterbox", -1.0, 0.75), ("crop", 1.0, 1.0),
                                                      ("stretch", 1.0, 1.0)])  # fmt: skip
def test_shapes(fit: str, corner: float, share: float) -> None:
    """A white disc on white, 40 x 30, in a film of 32 x 32."""
    picture = np.full((30, 40, 3), 255, dtype=np.uint8)
    yy, xx = np.mgrid[:30, :40]
    picture[(yy - 15) ** 2 + (xx - 20) ** 2 < 100] = (255, 0, 0)
    pixels, extent = framed([Image.fromarray(picture)], (32, 32), fit)
    assert pixels.shape == (3, 1, 32, 32)
    assert pixels[0, 0, 0, 0] == corner
    assert float(extent.mean()) == share
    disc = (pixels[1, 0] < 0) & (extent[0] > 0)
    height, width = int(disc.any(1).sum()), int(disc.any(0).sum())
    assert (abs(height - width) <= 1) == (fit != "stretch"), "round stays round"


def test_what_is_wrong(tmp_path: Path) -> None:
    home = clips(tmp_path / "running", 2)
    with pytest.raises(StarringError, match=r"0\.mp4 has 12 frames, and 17 frames of a film need 17"):
        Motion.read(home).lasting(17, 8, "first")
    with pytest.raises(StarringError, match=r"12 frames, and 9 frames .* need 13 .*pace=first"):
        Motion.read(home).lasting(9, 16 / 3, "film")
    (home / "prompts.txt").write_text("one\ntwo\nthree")
    with pytest.raises(StarringError, match=r"has 3 lines, but there are 2 clips"):
        Motion.read(home)
    (home / "prompts.txt").unlink()
    with pytest.raises(StarringError, match=r"what 0\.mp4 shows.*--motion-prompt"):
        Motion.read(home)
    (home / "videos.txt").write_text("0.mp4\nlost.mp4")
    with pytest.raises(StarringError, match=r"lost\.mp4, which is not there"):
        Motion.read(home)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StarringError, match="holds no clip"):
        Motion.read(tmp_path / "empty")
    with pytest.raises(StarringError, match="There is no"):
        Motion.read(tmp_path / "nowhere")


def test_a_clip_that_cannot_be_decoded_is_named_and_left_out(tmp_path: Path) -> None:
    home = clips(tmp_path / "running", 2)
    (home / "1.mp4").write_bytes(b"no film")
    motion = Motion.read(home).lasting(9, 8, "first")
    assert [path.name for path in motion.paths] == ["0.mp4"]
    assert len(motion.captions) == len(motion.digests) == 1
    (complaint,) = motion.skipped
    assert "1.mp4" in str(complaint)
    assert "left out" in str(complaint)
    (home / "0.mp4").write_bytes(b"no film either")
    with pytest.raises(StarringError, match=r"No clip of .* can be decoded"):
        Motion.read(home).lasting(9, 8, "first")


REAL = Path(__file__).parents[3] / "shared" / "data" / "motion"


@pytest.mark.slow
@pytest.mark.skipif(not any(REAL.glob("*.avi")), reason="the real clips are not here")
def test_real_clips_go_through() -> None:
    """UCF-101's, 320 x 240 at 25 frames a second, as CogVideoX's 49 frames of 480 x 720 at 8 a second."""
    motion = Motion.read(REAL, "a person is playing guitar")
    assert motion.lasting(49, 8, "first").digests == motion.digests
    for i in range(len(motion)):
        assert motion.numbers(i, 49, 8, "first") == list(range(49))
        paced = motion.numbers(i, 49, 8, "film")
        assert paced == [25 * j // 8 for j in range(49)]
        pixels, extent = framed(motion.frames(i, range(49)), (480, 720), "letterbox")
        assert pixels.shape == (3, 49, 480, 720)
        assert float(extent.mean()) == pytest.approx(640 / 720, abs=1e-3)
        assert pixels[:, :, :, :40].max() == pixels[:, :, :, -40:].max() == -1
        assert pixels.std() > 0.1
        assert (pixels[:, 1:] - pixels[:, :-1]).abs().mean() > 1e-3, "something moves"


def test_an_extent_at_latent_size(tmp_path: Path) -> None:
    from starring.data.latents import shrink

    _, extent = framed([Image.new("RGB", (40, 30))], (32, 32), "letterbox")
    assert torch.equal(shrink(extent[None, :, None], (8, 8)).sum((2, 3, 4)), torch.tensor([[48.0]]))
