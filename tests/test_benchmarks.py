"""The harness itself, and every counter that a case asserts, on tiny networks: timings are for people to look at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import kept_cases, machine
from benchmarks.cases import (
    CASES,
    biased,
    blended,
    composed,
    metrics,
    noise,
    overwriting,
    propagation,
    reference,
    reward,
    rewarded,
    tokens,
    training,
)
from benchmarks.counters import flops, largest
from benchmarks.crew import Scores
from benchmarks.harness import AGAIN, Case, Goal, added, measured, ratio, timed
from benchmarks.models import World
from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.perception.encoders import load_clip
from tests.perception.tiny_eyes import tiny_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> World:
    clip = load_clip(str(tiny_clip(tmp_path_factory.mktemp("eyes") / "clip")))
    return World(suite="cpu", device=CPU, backbone=tiny, clip=clip, seed=0)


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_every_variant_takes_its_turn_in_every_round() -> None:
    seen: list[str] = []
    found = timed({name: lambda name=name: seen.append(name) for name in "abc"}, 6, CPU)
    rounds = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert len(rounds) == 8, "two rounds are not counted"
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1, "the order changes"
    assert {name: len(each) for name, each in found.items()} == dict.fromkeys("abc", 6)


def test_ratios_are_of_pairs() -> None:
    # The machine was three times slower in the second round: the medians of seconds would say 2 / 1.5.
    found = ratio([2.0, 6.0, 2.0], [1.0, 3.0, 1.5])
    assert (found.median, found.best) == (2.0, 2.0)
    assert ratio([3.0], [1.0]).low == 3.0


def test_what_is_added_is_a_share_of_what_another_adds() -> None:
    """7 and 12 % more than the base keep ``folded / plain`` under 1.07 and are no third."""
    base = [1.0, 3.0, 1.0]
    found = added([1.07, 3.07, 1.07], [1.12, 3.12, 1.12], base)
    assert found.median == pytest.approx(7 / 12)
    assert added([1.04] * 3, [1.2] * 3, [1.0] * 3).median == pytest.approx(0.2)
    with pytest.raises(ValueError, match="takes no more than the base"):
        added([1.0] * 3, [0.9] * 3, [1.0] * 3)
    case = Case(
        id="P0", title="waiting", size="",
        variants={"plain": lambda: busy(0.02), "folded": lambda: busy(0.03), "one by one": lambda: busy(0.06)},
        goals=(Goal(what="added by folded / one by one", sign="<=", bar=1 / 3),),
    )  # fmt: skip
    (goal,) = measured(case, 5, CPU).goals
    assert goal["value"] == pytest.approx(1 / 4, rel=0.5)
    assert goal["reached"]


def test_a_case_is_held_against_its_bars() -> None:
    case = Case(
        id="P0", title="waiting", size="", variants={"short": lambda: busy(0.01), "long": lambda: busy(0.04)},
        counters={"passes": 3},
        goals=(
            Goal(what="long / short", sign=">=", bar=2), Goal(what="short / long", sign=">=", bar=2),
            Goal(what="passes", sign="<=", bar=3),
        ),
    )  # fmt: skip
    found = measured(case, 5, CPU)
    assert [goal["reached"] for goal in found.goals] == [True, False, True]
    assert found.ratios["long / short"].median == pytest.approx(4, rel=0.5)
    assert f"{AGAIN} / short" in found.ratios
    assert found.as_json()["counters"] == {"passes": 3}


def test_counters_count() -> None:
    one, other = torch.ones(8, 16), torch.ones(16, 4)
    assert flops(lambda: one @ other) == 2 * 8 * 16 * 4
    assert largest(lambda: (one @ other).sum()) == 8 * 4 * 4


@pytest.mark.parametrize(
    "build",
    [
        propagation.build, overwriting.build, reward.build, tokens.build, metrics.build, reference.build, biased.build,
        blended.build, reference.joint, composed.chosen, composed.compiled, composed.cached,
    ],
)  # fmt: skip
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does, of Functions
@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # within torch's own Fourier transform
def test_what_is_counted_keeps_to_its_bar(build: object, place: World) -> None:
    """Exactness, memory, operations and pictures; how much memory a reward saves depends on the network's size."""
    case: Case = build(place)  # type: ignore[operator]
    counted = [goal for goal in case.goals if goal.what in case.counters and goal.what != "times less memory"]
    assert counted
    assert {goal.what: case.counters[goal.what] for goal in counted if not goal.reached(case.counters[goal.what])} == {}


def test_published_scores_are_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, list[float]]:
        made.append(len(made))
        return {"ours": [1.0], "a rival": [2.0]}

    scores = Scores.under(tmp_path, "weights", {"seeds": 2})
    for _ in range(2):
        again = Scores.under(tmp_path, "weights", {"seeds": 2})
        assert list(again.of("dog-1", make).items()) == [("ours", [1.0]), ("a rival", [2.0])], "rows keep their order"
    assert made == [0]
    for state, settings in (("others", {"seeds": 2}), ("weights", {"seeds": 3})):
        assert Scores.under(tmp_path, state, settings).folder != scores.folder


def test_the_merge_is_exact_in_double_precision() -> None:
    assert max(biased.exactness().values()) < 1e-12


def test_the_noise_has_its_covariance() -> None:
    assert noise.deviation(16, 0) <= 5


def test_encoding_in_every_step_costs_operations(place: World) -> None:
    case = training.build(place)
    assert case.counters["times more operations when encoding"] > 1


def test_one_step_and_one_frame_give_the_film_s_gradient(place: World) -> None:
    """How many operations that saves depends on the network's size; see tests/methods/test_personalvideo.py."""
    counters = rewarded.build(place).counters
    assert counters["relative error of the gradient"] < 1e-4
    assert counters["times more operations through the film"] > 1
    assert counters["times more than from a kept start"] > counters["times more operations through the film"]


def test_every_case_has_a_bar_and_a_name() -> None:
    assert all(name.startswith("P") for name in CASES)
    files = {path.stem for path in (Path(__file__).parents[1] / "benchmarks" / "cases").glob("*.py")} - {"__init__"}
    builds: list[Any] = [getattr(build, "func", build) for build in CASES.values()]
    assert files == {build.__module__.rpartition(".")[2] for build in builds}, "every file is registered"


def test_files_of_other_measurements_are_not_mixed(place: World, tmp_path: Path) -> None:
    """Load and day may differ, as when a run goes on; suite, seed, rounds, machine and libraries may not."""
    about: dict[str, Any] = {"machine": machine(place), "suite": "cpu", "device": "cpu", "seed": 0, "rounds": 15}
    out, cases = tmp_path / "b.json", {"P12.16": {"goals": []}}
    later = {**about["machine"], "load": 9.9, "day": "2000-01-01"}
    out.write_text(json.dumps({**about, "machine": later, "cases": cases}))
    assert kept_cases(out, about) == cases
    for key, value in (
        ("suite", "gpu"),
        ("device", "cuda"),
        ("seed", 1),
        ("rounds", 5),
        ("machine", {**later, "processor": "another"}),
    ):
        out.write_text(json.dumps({**about, key: value, "cases": cases}))
        with pytest.raises(StarringError, match=r"measured otherwise: (processor|suite|device|seed|rounds) "):
            kept_cases(out, about)
