"""Methods side by side: what is averaged, what is compared, and what never shares a column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starring.metrics.catalogue import short
from starring.metrics.comparison import sign_flip
from starring.metrics.leaderboard import Films, board, columns, duels, matches, standings
from starring.metrics.statistics import Score

KEYS = ("dino_i", "motion")


def films(gain: float, subjects: int = 7, protocol: str = "p", seed: int = 0) -> Films:
    """Subjects differ a lot, a method adds a little."""
    rng = np.random.default_rng(seed)
    noise = np.random.default_rng([seed, int(1000 * gain)])
    return {
        (f"subject {i}", prompt, turn): {
            key: Score(value=float(level + gain + noise.normal(0, 0.002)), protocol=f"{key} {protocol}") for key in KEYS
        }
        for i, level in enumerate(rng.normal(0.5, 0.2, subjects))
        for prompt in ("beach", "snow")
        for turn in (0, 1)
    }


METHODS = {"vcd": films(0.05), "bridgeiv": films(0.08), "without": films(0.0)}
FLOORS = {"without": ["vcd", "bridgeiv"]}


def test_standings_average_subjects() -> None:
    found = standings(METHODS)
    assert [(each.metric, each.method) for each in found] == [(key, name) for key in KEYS for name in METHODS]
    top = found[0]
    by_subject = [
        np.mean([s["dino_i"].value for (who, _, _), s in METHODS["vcd"].items() if who == f"subject {i}"])
        for i in range(7)
    ]
    assert top.mean == pytest.approx(np.mean(by_subject))
    assert top.low < top.mean < top.high
    assert (top.films, top.subjects) == (28, 7)


def test_pairs_tell_methods_apart_whose_intervals_overlap() -> None:
    found = matches(METHODS, FLOORS)
    assert [(m.method, m.baseline) for m in found[:3]] == [
        ("vcd", "bridgeiv"), ("vcd", "without"), ("bridgeiv", "without"),
    ]  # fmt: skip
    standing = {each.method: each for each in standings(METHODS) if each.metric == "dino_i"}
    assert standing["vcd"].high > standing["without"].low
    assert found[1].difference.mean == pytest.approx(0.05, abs=0.003)
    assert found[1].difference.low > 0
    # Seven subjects, all better: 2 of 128 sign patterns, corrected for the three matches of the column.
    alone = sign_flip(torch.ones(7))
    assert found[1].difference.p == pytest.approx(3 * alone)
    assert found[1].least == pytest.approx(3 * alone)
    assert found[1].told
    assert all(match.difference.p >= alone for match in found)


def test_floors_are_compared_with_their_own_methods_alone() -> None:
    several = {
        "a": films(0.05),
        "b": films(0.08),
        "c": films(0.02),
        "without (a, b)": films(0),
        "without (c)": films(0),
    }
    found = matches(several, {"without (a, b)": ["a", "b"], "without (c)": ["c"]})
    pairs = [(m.method, m.baseline) for m in found if m.metric == "dino_i"]
    assert pairs == [
        ("a", "b"), ("a", "c"), ("b", "c"), ("a", "without (a, b)"), ("b", "without (a, b)"), ("c", "without (c)"),
    ]  # fmt: skip


@pytest.mark.parametrize(("subjects", "told"), [(4, False), (6, False), (7, True), (10, True)])
def test_a_test_that_can_tell_nothing_says_so(subjects: int, told: bool) -> None:
    """With n subjects no p is below 2 / 2^n, here of three lines a column."""
    few = {"vcd": films(0.05, subjects), "bridgeiv": films(0.08, subjects), "without": films(0.0, subjects)}
    found = matches(few, FLOORS)
    assert {match.told for match in found} == {told}
    table = duels(found)
    assert [row[4] == "–" for row in table.rows] == [not told] * len(found)
    assert (f"with {subjects} subjects no difference" in " ".join(table.notes)) == (not told)


def test_columns_of_fewer_films_are_told() -> None:
    lost = {
        place: {k: s for k, s in scores.items() if k != "motion" or place[2]} for place, scores in films(0.05).items()
    }
    note = board(standings({"vcd": lost, "without": films(0.0)})).notes[0]
    assert "vcd: 28 films of 7 subjects (Motion 14); without: 28 films of 7 subjects." in note


def test_other_protocols_are_other_columns() -> None:
    mixed = {"vcd": films(0.05), "bridgeiv": films(0.08, protocol="q")}
    assert columns(mixed) == [
        ("dino_i", "dino_i p"), ("dino_i", "dino_i q"), ("motion", "motion p"), ("motion", "motion q"),
    ]  # fmt: skip
    assert matches(mixed) == []
    table = board(standings(mixed))
    assert table.columns == (
        "method", *(f"{title} {short(f'{key} {p}')}" for key, title in zip(KEYS, ("DINO-I", "Motion"), strict=True)
                    for p in "pq"),
    )  # fmt: skip
    for row in table.rows:
        assert [cell == "–" for cell in row[1:]] == [row[0] == "bridgeiv", row[0] == "vcd"] * 2


def test_text() -> None:
    table = duels(matches({"vcd": films(0.05), "without": films(0.0)}))
    assert table.rows[0][0] == "vcd − without"
    assert table.rows[0][2] == "+0.050"
    assert table.rows[0][4].endswith("*")
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "sign-flip" in table.notes[0]
