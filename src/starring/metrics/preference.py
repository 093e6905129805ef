"""Which of two films people prefer: votes read, counted, and what the counts are worth.

Scores and people disagree, so papers ask people too. The questions are PersonalVideo's four (arXiv 2411.17048, appendix
A.2). A pair of films is what is independent here, not a vote: several people who look at one pair decide it together,
by majority.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from starring.errors import StarringError, unknown
from starring.metrics.table import Table

QUESTIONS: Mapping[str, str] = {
    "identity": "In which film does the subject look more like the photographs?",
    "text": "Which film shows better what the prompt says?",
    "motion": "Which film moves better: more alive, and free of flicker?",
    "overall": "Which film do you prefer?",
}
"""What is asked about every pair."""
CHOICES = ("left", "same", "right")
"""What may be answered."""
FORMAT = "starring-votes"
"""Marks a file of votes."""
NORMAL = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """What one person answered."""

    comparison: str
    """Which comparison it belongs to."""
    rater: str
    """Whose it is, as they called themselves."""
    votes: Mapping[tuple[int, str], str]
    """(pair, question) -> ``left``, ``same`` or ``right``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wins:
    """One question over all pairs."""

    question: str
    """Key of :data:`QUESTIONS`."""
    won: int
    """Pairs that the first side won."""
    lost: int
    """Pairs that the other side won."""
    tied: int
    """Pairs that nobody won."""
    low: float
    """Lower end of the 95 % interval of the first side's share of the pairs that somebody won."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of the exact sign test."""

    @property
    def share(self) -> float | None:
        """The first side's share of the pairs that somebody won."""
        return self.won / (self.won + self.lost) if self.won + self.lost else None


def wilson(won: int, of: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): right for few pairs, and for shares near 0 and 1."""
    if of == 0:
        return 0.0, 1.0
    share, z2 = won / of, NORMAL**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = NORMAL / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    # At a share of 0 or 1 an end is exactly 0 or 1, which rounding may miss.
    return (0.0 if won == 0 else middle - half), (1.0 if won == of else middle + half)


def sign_test(won: int, lost: int) -> float:
    """Two-sided p-value of as uneven a split if both sides were equally likely to win each pair; 1 for none."""
    count, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    return min(1.0, 2 * tail)


def tally(ballots: Sequence[Ballot], flipped: Sequence[bool]) -> list[Wins]:
    """How often the first side won, for each question that somebody answered.

    Args:
        ballots: of one comparison.
        flipped: for each pair whether the first side was shown on the right.
    """
    found: list[Wins] = []
    for question in QUESTIONS:
        balance: dict[int, int] = {}
        for ballot in ballots:
            for (pair, asked), choice in ballot.votes.items():
                if asked == question:
                    toward = CHOICES.index(choice) - 1  # -1 left, 0 same, 1 right
                    balance[pair] = balance.get(pair, 0) + (toward if flipped[pair] else -toward)
        if not balance:
            continue
        counts = Counter((value > 0) - (value < 0) for value in balance.values())
        won, lost = counts[1], counts[-1]
        low, high = wilson(won, won + lost)
        found.append(
            Wins(question=question, won=won, lost=lost, tied=counts[0], low=low, high=high, p=sign_test(won, lost))
        )
    return found


def read_ballots(files: Iterable[str | Path], comparison: str, pairs: int) -> list[Ballot]:
    """Files of votes that belong to one comparison.

    Raises:
        StarringError: if one is missing, no file of votes, damaged, of another comparison, or given twice.
    """
    found = [_read(Path(file).expanduser(), comparison, pairs) for file in files]
    if not found:
        raise StarringError("There are no votes. Open vote.html, answer, and save the votes.")
    names = [ballot.rater for ballot in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StarringError(f"Two files of votes are by '{twice[0]}'. Count each person once.")
    return found


def _read(path: Path, comparison: str, pairs: int) -> Ballot:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StarringError(f"There is no file {path}. Save the votes on the page vote.html first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise StarringError(f"{path} is not JSON ({error}). Save the votes on the page again.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise StarringError(f"{path} holds no votes. The page vote.html saves them, as votes-....json.")
    if values.get("comparison") != comparison:
        raise StarringError(
            f"{path} belongs to the comparison {values.get('comparison')}, not to {comparison}. Name its folder: --out."
        )
    votes: dict[tuple[int, str], str] = {}
    for vote in cast("list[Any]", values.get("votes", [])):
        try:
            pair, question, choice = vote["pair"], vote["question"], vote["choice"]
        except (KeyError, TypeError) as error:
            raise StarringError(f"{path} is damaged: {vote} is no vote.") from error
        if question not in QUESTIONS or choice not in CHOICES:
            kind, name, known = (
                ("answer", choice, CHOICES) if question in QUESTIONS else ("question", question, QUESTIONS)
            )
            raise unknown(kind, str(name), known, f"It is in {path}.")
        if not isinstance(pair, int) or not 0 <= pair < pairs or (pair, question) in votes:
            raise StarringError(f"{path} is damaged: pair {pair} is unknown or has two answers to '{question}'.")
        votes[pair, question] = choice
    return Ballot(comparison=comparison, rater=str(values.get("rater") or path.stem), votes=votes)


def preferred(names: tuple[str, str], wins: Sequence[Wins], ballots: Sequence[Ballot]) -> Table:
    """The counts as a table.

    Args:
        names: the first side and the other.
        wins: of the first side.
        ballots: what was counted.
    """
    rows = [
        (
            QUESTIONS[each.question], f"{each.won}", f"{each.lost}", f"{each.tied}",
            "–" if each.share is None else f"{100 * each.share:.0f} %",
            f"[{100 * each.low:.0f}, {100 * each.high:.0f}]", f"{each.p:.3f}",
        )
        for each in wins
    ]  # fmt: skip
    votes = sum(len(ballot.votes) for ballot in ballots)
    note = (
        f"{votes} votes by {len(ballots)} people. A pair of films counts once, for whom most of them preferred. Share: "
        f"of the pairs that somebody won, {names[0]}'s, with Wilson's 95 % interval; p by the exact sign test."
    )
    return Table(
        title=f"{names[0]} against {names[1]}, blind",
        columns=("question", names[0], names[1], "tied", "share", "95 %", "p"), rows=tuple(rows), notes=(note,),
    )  # fmt: skip
