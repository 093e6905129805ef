"""Each formula against a slow, obvious restatement: one frame at a time, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from starring.errors import StarringError
from starring.metrics.alignment import text_alignment
from starring.metrics.identity import image_similarity, leave_one_out
from starring.metrics.motion import (
    consistency,
    dynamic,
    flow_magnitude,
    flow_magnitude_top,
    smoothness,
    static,
    steadiness,
    stride,
    vbench_consistency,
)
from starring.metrics.statistics import Score, estimate, one_protocol, recovered


def units(count: int, seed: int, width: int = 6) -> Tensor:
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_image_similarity() -> None:
    frames, references = units(5, 0), units(3, 1)
    slow = np.mean([[cosine(f, r) for r in references.numpy()] for f in frames.numpy()])
    assert image_similarity(frames, references) == pytest.approx(slow, abs=1e-6)


def test_leave_one_out() -> None:
    references = units(4, 2)
    rows = references.numpy()
    slow = [np.mean([cosine(rows[i], rows[j]) for j in range(4) if j != i]) for i in range(4)]
    assert leave_one_out(references).tolist() == pytest.approx(slow, abs=1e-6)


def test_text_alignment_also_as_dreamvideo_computes_it() -> None:
    frames, text = units(5, 3), units(1, 4)
    slow = np.mean([cosine(f, text[0].numpy()) for f in frames.numpy()])
    assert text_alignment(frames, text) == pytest.approx(slow, abs=1e-6)
    assert text_alignment(frames, text[0]) == pytest.approx(float(frames.mean(0) @ text[0]), abs=1e-6)


def test_consistency() -> None:
    frames = units(5, 5)
    rows = frames.numpy()
    slow = np.mean([cosine(rows[i], rows[i + 1]) for i in range(4)])
    assert consistency(frames) == pytest.approx(slow, abs=1e-6)
    vbench = [(max(0, cosine(rows[i], rows[i - 1])) + max(0, cosine(rows[i], rows[0]))) / 2 for i in range(1, 5)]
    assert vbench_consistency(frames) == pytest.approx(np.mean(vbench), abs=1e-6)


def test_steadiness_is_vbenchs_flicker_score_on_bytes() -> None:
    rng = np.random.default_rng(6)
    film = rng.integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    pairs = [np.mean(np.abs(film[i].astype(np.float32) - film[i + 1].astype(np.float32))) for i in range(3)]
    slow = (255 - np.mean(pairs)) / 255
    frames = torch.from_numpy(film).permute(0, 3, 1, 2).float() / 255
    assert steadiness(frames) == pytest.approx(slow, abs=1e-7)
    assert steadiness(frames[:1].expand(3, -1, -1, -1)) == 1


def test_flow_magnitudes() -> None:
    flow = torch.randn(3, 2, 10, 12, generator=torch.Generator().manual_seed(7))
    lengths = np.sqrt((flow.numpy() ** 2).sum(1)).reshape(3, -1)
    assert flow_magnitude(flow) == pytest.approx(lengths.mean(), abs=1e-6)
    slow = np.mean([np.sort(one)[::-1][:6].mean() for one in lengths])  # 5 % of 120 pixels
    assert flow_magnitude_top(flow) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize(("moving", "expected"), [(3, False), (4, True), (15, True)])
def test_dynamic_degree_counts_pairs(moving: int, expected: bool) -> None:
    # 16 frames of 512x512 need 4 pairs above 12 pixels; 64x64 need 1.5.
    flow = torch.zeros(15, 2, 64, 64)
    flow[:moving, 0, :16, :16] = 1.6
    assert dynamic(flow, 16) is expected


@pytest.mark.parametrize(
    ("height", "width", "frames", "threshold", "pairs"),
    [(512, 512, 16, 12, 4), (480, 720, 49, 11.25, 12), (512, 512, 25, 12, 6), (256, 256, 10, 6, 2)],
)
def test_dynamic_degree_at_vbenchs_thresholds(
    height: int, width: int, frames: int, threshold: float, pairs: int
) -> None:
    """Ties are rounded to even: 2.5 pairs are 2."""
    for speed, moving, expected in ((1.001, pairs, True), (1.001, pairs - 1, False), (0.999, frames - 1, False)):
        flow = torch.zeros(frames - 1, 2, height // 8, width // 8)
        flow[:moving, 1, : height // 16] = speed * threshold / 8  # an eighth of the size has an eighth of the threshold
        assert dynamic(flow, frames) is expected


def test_a_still_film_never_moves() -> None:
    for frames in range(2, 20):
        assert not dynamic(torch.zeros(frames - 1, 2, 16, 16), frames)


def test_dynamic_degree_at_other_rates() -> None:
    assert [stride(fps) for fps in (4, 8, 11, 12, 13, 16, 24, 30)] == [1, 1, 1, 2, 2, 2, 3, 4]
    flow = torch.full((3, 2, 64, 64), 1.5)  # 2.12 pixels long: above 1.5, below 3
    assert dynamic(flow, 4, fps=8)
    assert not dynamic(flow, 4, fps=4)  # twice the time passes between its frames
    with pytest.raises(StarringError, match="rate"):
        dynamic(flow, 4, fps=0)


def test_the_static_filter() -> None:
    """16 frames of 256x256: at most two pairs above 3 pixels, the ends not above 12."""
    still, ends = torch.zeros(15, 2, 256, 256), torch.zeros(2, 2, 256, 256)
    assert static(still, ends, 16)
    jumps = still.clone()
    jumps[:2, 0, :16] = 3.1
    assert static(jumps, ends, 16)
    jumps[2, 0, :16] = 3.1
    assert not static(jumps, ends, 16)
    drift = ends.clone()
    drift[1, 0, :16] = 12.1
    assert not static(still, drift, 16)


class Blend:
    """Draws a mean of both frames that never lies halfway between two bytes."""

    protocol = "blend"

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        return 0.4 * before + 0.6 * after


def test_smoothness_compares_odd_frames_with_what_lies_between_even_ones() -> None:
    film = np.random.default_rng(9).integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
    slow = []
    for i in (1, 3):  # the sixth frame has no successor
        drawn = np.round(0.4 * film[i - 1].astype(np.float64) + 0.6 * film[i + 1])
        slow.append(np.abs(drawn - film[i]).mean())
    frames = torch.from_numpy(film).permute(0, 3, 1, 2).double() / 255
    assert smoothness(frames, Blend()) == pytest.approx((255 - np.mean(slow)) / 255, abs=1e-7)
    assert smoothness(frames[:1].expand(3, -1, -1, -1), Blend()) == 1
    with pytest.raises(StarringError, match="between two others"):
        smoothness(frames[:2], Blend())


def test_too_little_to_measure_is_said() -> None:
    for measure in (consistency, vbench_consistency):
        with pytest.raises(StarringError, match="at least two"):
            measure(units(1, 0))
    with pytest.raises(StarringError, match="at least two"):
        steadiness(torch.zeros(1, 3, 4, 4))
    for measure in (flow_magnitude, flow_magnitude_top):
        with pytest.raises(StarringError, match="at least two"):
            measure(torch.zeros(0, 2, 4, 4))
    with pytest.raises(StarringError, match="missing"):
        image_similarity(units(2, 0), units(0, 0))
    with pytest.raises(StarringError, match="at least one"):
        text_alignment(units(0, 0), units(1, 0))
    with pytest.raises(StarringError, match="two photographs"):
        leave_one_out(units(1, 0))


def test_mean_and_standard_error() -> None:
    values = [0.3, 0.5, 0.9, 0.4]
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))
    assert (estimate([2.0]).error, estimate([2.0]).count) == (None, 1)
    with pytest.raises(StarringError, match="nothing"):
        estimate([])


def test_recovered_is_the_share_of_the_way() -> None:
    found = recovered([0.6, 0.7], [0.4, 0.4], 0.8)
    assert found is not None
    assert found.mean == pytest.approx((0.65 - 0.4) / (0.8 - 0.4))
    assert recovered([0.6], [0.4], 0.8).error is None  # pyright: ignore[reportOptionalMemberAccess]
    assert recovered([0.9, 0.9], [0.8, 0.8], 0.8) is None
    assert recovered([0.3, 0.3], [0.4, 0.4], 0.8).mean < 0  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(StarringError, match="pair up"):
        recovered([0.1], [], 1.0)


def test_the_jackknife_agrees_with_repeated_experiments() -> None:
    rng = np.random.default_rng(8)
    ratios, errors = [], []
    for _ in range(400):
        shared = rng.normal(0, 0.05, 12)  # prompts differ, with and without customization alike
        scores, floors = 0.65 + shared + rng.normal(0, 0.02, 12), 0.4 + shared + rng.normal(0, 0.02, 12)
        found = recovered(scores.tolist(), floors.tolist(), 0.9)
        assert found is not None
        assert found.error is not None
        ratios.append(found.mean)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)


def test_numbers_of_different_protocols_refuse_one_table() -> None:
    same = [Score(value=0.1, protocol="a"), Score(value=0.2, protocol="a")]
    assert one_protocol(same) == "a"
    with pytest.raises(StarringError, match="a; b"):
        one_protocol([*same, Score(value=0.1, protocol="b")])
