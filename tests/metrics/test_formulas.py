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
    steadiness,
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
