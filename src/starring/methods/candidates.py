"""Several sets of words learned side by side, of which a reward keeps one.

What textual inversion finds varies with chance: one training misses what another finds. What the words are worth is
seen on films, and PersonalVideo has somebody who looks at them (arXiv 2411.17048, section 4.1); the paper has one set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Candidates(nn.Module):
    """Sets of words beside a method's own rows.

    Args:
        rows: the method's own, ``n d``, which are the first set and hold the one that was kept.
        count: how many sets there are, with the first.
    """

    kept: Tensor
    """Number of the set that was kept, from 0; -1 as long as none was."""

    def __init__(self, rows: Tensor, count: int) -> None:
        super().__init__()
        self.others = nn.ParameterList(nn.Parameter(rows.detach().clone()) for _ in range(count - 1))
        self.register_buffer("kept", torch.tensor(-1))

    @property
    def count(self) -> int:
        """How many sets there are to choose from; 1 once one was kept."""
        return 1 if int(self.kept) >= 0 else len(self.others) + 1

    def vocabulary(self, tag: str) -> dict[str, Callable[[], Tensor]]:
        """The words of all sets but the first, by name."""
        return {
            name: partial(rows.__getitem__, i)
            for k, rows in enumerate(self.others, 1)
            for i, name in enumerate(self.names(tag, k))
        }

    def names(self, tag: str, which: int) -> tuple[str, ...]:
        """The words of a set, ``<new5>`` and on for the second set of four."""
        vectors = len(self.others[0])
        return tuple(f"<{tag}{which * vectors + i + 1}>" for i in range(vectors))

    @torch.no_grad()
    def keep_best(self, rows: nn.Parameter, worth: Callable[[], float]) -> list[float]:
        """Keep the set that is worth most.

        Args:
            rows: the method's own; they have each set in turn, and the best one in the end.
            worth: what films with these rows are worth; the same films for each set.

        Returns:
            What each set was worth.
        """
        sets = [each.detach().clone() for each in (rows, *self.others)]
        found: list[float] = []
        for each in sets:
            rows.copy_(each)
            found.append(worth())
        best = _agreed(max(range(len(sets)), key=found.__getitem__), rows.device)
        rows.copy_(sets[best])
        self.kept.fill_(best)
        return found


def mean_worth(rewards: Sequence[dict[str, Tensor] | None], semantic: float) -> float:
    """The mean over films of their rewards, the prompt's by its weight.

    A film on which the subject is not seen is worth -1, and so is one whose reward is no number.
    """

    def one(reward: dict[str, Tensor] | None) -> float:
        if reward is None or not all(bool(each.isfinite()) for each in reward.values()):
            return -1.0
        return float(reward["likeness"]) + semantic * float(reward.get("semantics", torch.zeros(())))

    return sum(map(one, rewards)) / len(rewards)


def _agreed(number: int, device: Any) -> int:
    """The first process's number, if there are several: what one keeps, all must keep."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    told = torch.tensor(number, device=device)
    dist.broadcast(told, 0)
    return int(told)
