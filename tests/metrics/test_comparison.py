"""Intervals and paired tests against enumeration, and against repeated experiments."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from starring.errors import StarringError
from starring.metrics.comparison import EXACT, bootstrapped, holm, interval, least, paired, sign_flip

Key = tuple[str, str, int]


def films(values: dict[str, list[float]]) -> dict[Key, float]:
    return {(who, f"prompt {i}", 0): value for who, some in values.items() for i, value in enumerate(some)}


def test_sign_flips_by_enumeration() -> None:
    values = [0.3, -0.1, 0.4, 0.2]
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=4)]
    slow = np.mean([total >= sum(values) - 1e-12 for total in sums])
    assert sign_flip(torch.tensor(values, dtype=torch.float64)) == pytest.approx(slow)
    assert sign_flip(torch.ones(6)) == pytest.approx(2 / 64)
    assert sign_flip(torch.zeros(5)) == 1


def test_random_flips_agree_with_all_of_them() -> None:
    values = torch.tensor(np.random.default_rng(0).normal(0.25, 1, 13))
    exact = sign_flip(values)
    more = torch.cat([values, torch.zeros(EXACT + 1 - len(values))])  # one more than are enumerated: drawn at random
    assert sign_flip(more) == pytest.approx(exact, abs=0.01)
    assert sign_flip(torch.ones(40)) == pytest.approx(1 / 100_001) == least(40)
    assert [sign_flip(torch.ones(n)) for n in (1, 4, 10, EXACT)] == [least(n) for n in (1, 4, 10, EXACT)]


def test_chance_alone_is_significant_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    found = [sign_flip(torch.tensor(rng.normal(size=10))) for _ in range(400)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_pairs_are_matched_by_subject_prompt_and_seed() -> None:
    method, baseline = films({"rex": [0.5, 0.7], "tom": [0.6, 0.9]}), films({"tom": [0.5, 0.5], "rex": [0.4, 0.4]})
    del baseline["rex", "prompt 1", 0]
    found = paired(method, baseline)
    assert found is not None
    assert (found.films, found.subjects) == (3, 2)
    assert found.mean == pytest.approx((0.1 + (0.1 + 0.4) / 2) / 2)  # the mean of the subjects' means
    assert found.low <= found.mean <= found.high
    assert found.p == pytest.approx(0.5)  # two subjects: four sign patterns, two of them as far
    assert paired(method, {}) is None


def test_shared_seeds_make_small_differences_visible() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 0.2, 12)  # prompts differ a lot, methods a little
    a = films({"rex": (0.6 + hard + rng.normal(0.03, 0.01, 12)).tolist()})
    b = films({"rex": (0.6 + hard).tolist()})
    found = paired(a, b)
    assert found is not None
    assert found.p < 0.01
    assert 0 < found.low < found.mean < found.high
    apart = [interval([list(each.values())]) for each in (a, b)]
    assert apart[0][0] < apart[1][1], "the intervals of the methods themselves overlap"


def test_intervals_resample_subjects() -> None:
    groups = [[0.1] * 50, [0.5] * 50, [0.9] * 50]
    low, high = interval(groups)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.9))  # 150 films are three subjects
    assert interval([[0.4]]) == (pytest.approx(0.4), pytest.approx(0.4))
    with pytest.raises(StarringError, match="nothing"):
        interval([[], []])


def test_bootstrap_intervals_hold_the_mean_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        low, high = bootstrapped(torch.tensor(rng.normal(0.5, 0.2, 30)), lambda x: x.mean(-1), seed=seed, draws=400)
        held += low <= 0.5 <= high
    assert held / 200 == pytest.approx(0.95, abs=0.05)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
