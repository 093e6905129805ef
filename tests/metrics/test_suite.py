"""The judge: one look for all scores, equal to scripts that look again for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from starring.errors import StarringError
from starring.metrics.catalogue import short
from starring.metrics.suite import METRICS, Judge, digest_of, load_judge
from starring.perception.encoders import load_dino
from tests.perception.tiny_eyes import tiny_eyes

PROMPT = "a dog on the beach"
BROUGHT = {"identity", "face", "other_face", "face_rate", "aesthetic", "copied_pose", "copied_background", "course",
           "trajectory", "motion_share"}  # fmt: skip
OURS = [key for key in METRICS if key not in BROUGHT]
"""What needs no eyes that a person has to bring."""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def film(frames: int = 6, height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    """Noise that changes slowly, ``3 F H W`` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.rand(3, 1, height, width, generator=generator)
    return (still + 0.3 * torch.rand(3, frames, height, width, generator=generator)).clamp(0, 1) * 2 - 1


def photographs(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (50, 44 + i, 3), dtype=np.uint8)) for i in range(count)]


@contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """The batch sizes of all passes through a vision network."""
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _module, _args, output: seen.append(len(output[0])))
    try:
        yield seen
    finally:
        handle.remove()


def towers(judge: Judge) -> tuple[nn.Module, nn.Module]:
    clip: Any = judge.clip.network
    return clip.vision_model, judge.dino.network


def one_by_one(judge: Judge, pixels: Tensor, images: list[Image.Image]) -> dict[str, float]:
    """Five scripts, each of which looks at every frame by itself, in NumPy after the networks."""
    frames = [np.round((one.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8) for one in pixels.unbind(1)]

    def seen(encoder: Any, array: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return encoder.images(torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255)[0].numpy()

    references = [np.array(image) for image in images]
    with torch.no_grad():
        text = judge.clip.texts([PROMPT])[0].numpy()
    found = {"clip_t": float(np.mean([seen(judge.clip, f) @ text for f in frames]))}
    for key, encoder in (("clip_i", judge.clip), ("dino_i", judge.dino)):
        looked = [seen(encoder, r) for r in references]
        found[key] = float(np.mean([np.mean([seen(encoder, f) @ r for r in looked]) for f in frames]))
    for key, encoder in (("consistency_clip", judge.clip), ("consistency_dino", judge.dino)):
        looked = [seen(encoder, f) for f in frames]
        found[key] = float(np.mean([a @ b for a, b in pairwise(looked)]))
    steps = [np.abs(a.astype(np.float32) - b.astype(np.float32)).mean() for a, b in pairwise(frames)]
    found["steadiness"] = float((255 - np.mean(steps)) / 255)
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flows = [np.linalg.norm(dis.calc(a, b, None), axis=-1) for a, b in pairwise(grey)]
    found["motion"] = float(np.mean(flows))
    fastest = [np.sort(f.ravel())[::-1][: int(0.05 * f.size)].mean() for f in flows]
    found["motion_top"] = float(np.mean(fastest))
    limit = 6 * min(grey[0].shape) / 256
    found["dynamic"] = float(sum(f > limit for f in fastest) >= round(4 * len(frames) / 16))
    for key, encoder in (("subject", judge.dino), ("background", judge.clip)):
        looked = [seen(encoder, f) for f in frames]
        both = [(max(0, now @ before) + max(0, now @ looked[0])) / 2 for before, now in pairwise(looked)]
        found[key] = float(np.mean(both))
    drawn = [between(frames[i], frames[i + 2]) for i in range(0, len(frames) - 2, 2)]
    missed = [np.abs(a - frames[2 * i + 1]).mean() for i, a in enumerate(drawn)]
    found["smoothness"] = float((255 - np.mean(missed)) / 255)
    return found


def between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The frame in the middle by DIS and OpenCV's own warping."""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (before, after)]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth, back = dis.calc(grey[0], grey[1], None), dis.calc(grey[1], grey[0], None)
    y, x = np.mgrid[: before.shape[0], : before.shape[1]].astype(np.float32)
    total = np.zeros(before.shape)
    for frame, flow in ((before, (back - forth) / 4), (after, (forth - back) / 4)):
        # OpenCV's remap rounds places to 1/32 of a pixel, so the four neighbours are weighed here.
        px, py = (x + flow[..., 0]).clip(0, x.shape[1] - 1), (y + flow[..., 1]).clip(0, x.shape[0] - 1)
        left, top = np.floor(px).astype(int), np.floor(py).astype(int)
        right, low = np.minimum(left + 1, x.shape[1] - 1), np.minimum(top + 1, x.shape[0] - 1)
        u, v = (px - left)[..., None], (py - top)[..., None]
        upper = frame[top, left] * (1 - u) + frame[top, right] * u
        lower = frame[low, left] * (1 - u) + frame[low, right] * u
        total += (upper * (1 - v) + lower * v) / 2
    return np.round(total)


def test_one_look_equals_a_script_for_each_metric(judge: Judge) -> None:
    images = photographs()
    pixels = film()
    scores = judge.score(pixels, PROMPT, judge.references(images))
    slow = one_by_one(judge, pixels, images)
    assert set(scores) == set(slow) == set(OURS)
    assert {key: score.value for key, score in scores.items()} == pytest.approx(slow, abs=2e-5)


@pytest.mark.slow
def test_one_pass_per_encoder_serves_all(judge: Judge) -> None:
    """P17: 49 frames, five scores; the scripts look 2.5 times as often and in 25 times as many passes."""
    images, pixels = photographs(), film(49, 16, 16)
    clip, dino = towers(judge)
    with counted(clip) as clip_passes, counted(dino) as dino_passes:
        references = judge.references(images)
        judge.ceilings(references)
        assert (sum(clip_passes), sum(dino_passes)) == (3, 3)
        clip_passes.clear()
        dino_passes.clear()
        judge.score(pixels, PROMPT, references)
        judge.score(pixels, "a cat in the snow", references)
    assert (sum(clip_passes), sum(dino_passes)) == (2 * 49, 2 * 49)
    assert (len(clip_passes), len(dino_passes)) == (4, 4)  # two batches of at most 32 frames
    ours = sum(clip_passes + dino_passes) / 2
    with counted(clip) as clip_passes, counted(dino) as dino_passes:
        one_by_one(judge, pixels, images)
    theirs = sum(clip_passes + dino_passes)
    assert theirs / ours >= 2.5
    assert len(clip_passes + dino_passes) / 4 >= 25


def test_texts_are_encoded_once(judge: Judge) -> None:
    text: Any = judge.clip.network
    with counted(text.text_model) as passes:
        judge.score(film(2), "a turtle", None)
        judge.score(film(3), "a turtle", None)
    assert len(passes) == 1


def test_protocols(judge: Judge) -> None:
    references = judge.references(photographs())
    scores = judge.score(film(), PROMPT, references)
    assert judge.clip.protocol in scores["clip_t"].protocol
    assert judge.dino.protocol in scores["dino_i"].protocol
    assert scores["motion"].protocol == "mean; dis(medium); 48x40x6 at 8 fps"
    assert scores["steadiness"].protocol == "vbench flicker, 8 bit, no static filter; 48x40x6 at 8 fps"
    assert len({short(score.protocol) for score in scores.values()}) == len({s.protocol for s in scores.values()})
    sized, first = {"motion", "motion_top", "steadiness", "smoothness"}, {"subject", "background"}
    neighbours = {"consistency_clip", "consistency_dino"}
    for other, changed in (
        (judge.score(film(frames=5), PROMPT, references), sized | first),
        (judge.score(film(), PROMPT, references, fps=12), sized | first | neighbours),
        (judge.score(film(height=32), PROMPT, references), sized),
    ):
        assert {key for key in scores if other[key].protocol != scores[key].protocol} == changed
        temporal = {key for key in scores if METRICS[key].temporal}
        assert changed <= temporal


def test_ceiling_is_the_references_against_each_other(judge: Judge) -> None:
    images = photographs(3)
    references = judge.references(images)
    ceilings = judge.ceilings(references)
    rows = references.vectors(judge.dino).numpy()
    pairs = [rows[i] @ rows[j] for i in range(3) for j in range(3) if i != j]
    found, protocol = ceilings["dino_i"]
    assert found.mean == pytest.approx(np.mean(pairs), abs=1e-6)
    assert (found.count, protocol) == (3, judge.score(film(), PROMPT, references)["dino_i"].protocol)
    assert set(ceilings) == {"dino_i", "clip_i"}
    assert judge.ceilings(judge.references(images[:1])) == {}


def test_without_references_the_identity_scores_are_left_out(judge: Judge) -> None:
    assert set(OURS) - set(judge.score(film(), PROMPT)) == {"dino_i", "clip_i"}


def test_a_batch_of_one_is_a_film(judge: Judge) -> None:
    assert judge.score(film()[None], PROMPT) == judge.score(film(), PROMPT)


def test_values_beyond_white_are_clipped_as_a_film_file_clips_them(judge: Judge) -> None:
    pixels = film()
    assert judge.score(pixels * 3, PROMPT) == judge.score((pixels * 3).clamp(-1, 1), PROMPT)


def test_what_cannot_be_scored_is_said(judge: Judge) -> None:
    with pytest.raises(StarringError, match="3 F H W"):
        judge.score(torch.zeros(2, 3, 4, 8, 8), PROMPT)
    with pytest.raises(StarringError, match="two frames"):
        judge.score(film(1), PROMPT)
    with pytest.raises(StarringError, match="class word"):
        judge.score(film(), "a <*> dog")
    with pytest.raises(StarringError, match="at least one"):
        judge.references([])


def test_digests_see_pixels_sizes_and_order() -> None:
    images = photographs()
    assert digest_of(images) == digest_of([image.copy() for image in images])
    changed = images[0].copy()
    changed.putpixel((0, 0), (1, 2, 3))
    others = [[changed, *images[1:]], images[::-1], images[:2], [images[0].resize((3, 3)), *images[1:]]]
    assert len({digest_of(each) for each in [images, *others]}) == 5


def test_judges_differ_in_protocol(judge: Judge, tmp_path: Path) -> None:
    folder = tiny_eyes(tmp_path)
    other = Judge(judge.clip, load_dino(str(folder / "dino"), transform="vbench"))
    assert other.protocol != judge.protocol
    assert other.protocol != Judge(other.clip, other.dino, protocol="vcd").protocol
    with pytest.raises(StarringError, match=r"no judge 'papre'\. Did you mean 'paper'"):
        load_judge("papre")
