"""What one optimiser step sees, whichever way its samples are split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone
from starring.config import Recipe, Stage
from starring.methods import METHODS, Batch, Losses, Method
from starring.run import Run
from tests.data.pictures import album
from tests.training import RECIPE, TRAIN, begin


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthConfig:
    class_word: str = ""


class Length(Method):
    """Learns the mean length of captions: a loss of the samples alone, without the noise that differs by splitting."""

    name = "length"
    arxiv = "0000.00000"
    title = "Lengths of captions"
    config_type = LengthConfig
    recipes: ClassVar[dict[str, Recipe]] = {}
    gradients: ClassVar[list[Tensor]] = []

    def __init__(self, backbone: Backbone, config: Any = None) -> None:
        super().__init__(backbone, config)
        self.number = nn.Parameter(torch.zeros(()))
        self.number.register_hook(self.gradients.append)

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        yield

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        return [self.number]

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        lengths = torch.tensor([len(caption) / 10 for caption in batch.captions])
        return Losses(total=((self.number - lengths) ** 2).mean())


def test_accumulated_micro_batches_are_one_large_batch(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "length", Length)
    photographs = album(tmp_path / "ball", 4, (64, 64))

    def split(batch: int, accumulate: int) -> tuple[Run, list[Tensor]]:
        train = replace(TRAIN, steps=2, batch=batch, accumulate=accumulate, learning_rate=0.1)
        recipe = replace(RECIPE, method="length", stages=(Stage(name="tokens", train=train),))
        Length.gradients.clear()
        run = begin(photographs, tiny, tmp_path / "runs", recipe)
        return run, list(Length.gradients)

    (whole, large), (halves, small) = split(4, 1), split(2, 2)
    assert [run.load_checkpoint().position for run in (whole, halves)] == [8, 8]  # type: ignore[union-attr]
    assert (len(large), len(small)) == (2, 4)
    assert small[0] != small[1], "the halves hold other samples"
    # Adam does not see a factor on all gradients, so the weights alone would not tell.
    torch.testing.assert_close(torch.stack([small[0] + small[1], small[2] + small[3]]), torch.stack(large))
    losses = [[entry["loss"] for entry in run.entries()] for run in (whole, halves)]
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(halves.load_weights(), whole.load_weights())
