"""Votes are read carefully and counted by pairs; intervals and p-values against their definitions."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from starring.errors import StarringError
from starring.metrics.ballot import Duel, ballot_page
from starring.metrics.preference import Ballot, preferred, read_ballots, sign_test, tally, wilson
from starring.metrics.report import Picture
from tests.metrics.test_report import PNG, parsed


@pytest.mark.parametrize(("won", "of"), [(0, 7), (3, 7), (7, 7), (60, 100)])
def test_wilsons_interval_holds_what_the_data_do_not_reject(won: int, of: int) -> None:
    low, high = wilson(won, of)
    for end in (low, high):  # at its ends the score statistic is exactly at its 95 % bound
        if 0 < end < 1:
            z = (won / of - end) / math.sqrt(end * (1 - end) / of)
            assert abs(z) == pytest.approx(1.959964, abs=1e-5)
    assert low <= won / of <= high
    assert (low == 0, high == 1) == (won == 0, won == of)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (4, 2), (3, 3), (1, 7)])
def test_the_sign_test_by_enumeration(won: int, lost: int) -> None:
    outcomes = [sum(signs) for signs in product((-1, 1), repeat=won + lost)]
    slow = sum(abs(total) >= abs(won - lost) for total in outcomes) / len(outcomes)
    assert sign_test(won, lost) == pytest.approx(slow)


def ballot(rater: str, votes: dict[tuple[int, str], str]) -> Ballot:
    return Ballot(comparison="c", rater=rater, votes=votes)


def test_pairs_are_decided_by_majority_and_sides_are_unshuffled() -> None:
    ada = ballot(
        "ada", {(0, "identity"): "left", (1, "identity"): "left", (2, "identity"): "same", (0, "text"): "right"}
    )
    bob = ballot("bob", {(0, "identity"): "left", (1, "identity"): "left", (2, "identity"): "right"})
    cyd = ballot("cyd", {(0, "identity"): "right", (1, "identity"): "right", (3, "identity"): "same"})
    identity, text = tally([ada, bob, cyd], [False, True, True, False])
    # Pair 0: two of three for the first, on the left. Pair 1: two of three for the left, where the other one is.
    # Pair 2: one for the right, where the first one is. Pair 3: nobody.
    assert (identity.won, identity.lost, identity.tied) == (2, 1, 1)
    assert identity.share == pytest.approx(2 / 3)
    assert (identity.low, identity.high) == wilson(2, 3)
    assert (text.won, text.lost, text.p) == (0, 1, 1.0)
    table = preferred(("vcd", "bridgeiv"), [identity, text], [ada, bob, cyd])
    assert table.rows[0][1:5] == ("2", "1", "1", "67 %")
    assert "10 votes by 3 people" in table.notes[0]
    (only,) = tally([ballot("dan", {(0, "overall"): "same"})], [False])
    assert (only.share, only.low, only.high, only.p) == (None, 0, 1, 1)


def saved(path: Path, **changes: Any) -> Path:
    votes = [{"pair": 0, "question": "text", "choice": "left"}]
    values = {"format": "starring-votes", "comparison": "c", "rater": "ada", "votes": votes, **changes}
    path.write_text(json.dumps(values))
    return path


def test_files_of_votes_are_read(tmp_path: Path) -> None:
    files = [saved(tmp_path / "a.json"), saved(tmp_path / "b.json", rater="")]
    assert [(b.rater, b.votes) for b in read_ballots(files, "c", 1)] == [
        ("ada", {(0, "text"): "left"}), ("b", {(0, "text"): "left"}),
    ]  # fmt: skip


@pytest.mark.parametrize(("changes", "fragment"), [
    ({"format": "x"}, "holds no votes"),
    ({"comparison": "d"}, "belongs to the comparison d, not to c"),
    ({"votes": [{"pair": 0, "question": "txt", "choice": "left"}]}, "Did you mean 'text'"),
    ({"votes": [{"pair": 0, "question": "text", "choice": "lft"}]}, "Did you mean 'left'"),
    ({"votes": [{"pair": 1, "question": "text", "choice": "left"}]}, "pair 1 is unknown"),
    ({"votes": [{"pair": 0, "question": "text", "choice": "left"}] * 2}, "two answers"),
    ({"votes": [3]}, "is no vote"),
])  # fmt: skip
def test_damaged_votes_are_refused(changes: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match=fragment):
        read_ballots([saved(tmp_path / "a.json", **changes)], "c", 1)


def test_votes_that_are_not_there_or_twice(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no file"):
        read_ballots([tmp_path / "none.json"], "c", 1)
    with pytest.raises(StarringError, match="There are no votes"):
        read_ballots([], "c", 1)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StarringError, match="is not JSON"):
        read_ballots([tmp_path / "x.json"], "c", 1)
    with pytest.raises(StarringError, match="by 'ada'"):
        read_ballots([saved(tmp_path / "a.json"), saved(tmp_path / "b.json")], "c", 1)


def test_the_page_is_well_formed_blind_and_stands_alone() -> None:
    duel = Duel(said="a <dog>", references=[Picture(png=PNG, pixels=True)], left=b"one", right=b"two", size=(64, 64))
    page = ballot_page("c0ffee", [duel, duel])
    checker = parsed(page.replace("<input ", "<meta "))  # inputs close themselves, as meta does
    assert all(link.startswith("data:") for link in checker.links)
    assert page.count("<fieldset>") == 8
    assert page.count('type="radio"') == 24
    assert "a &lt;dog&gt;" in page
    assert "c0ffee" in page
