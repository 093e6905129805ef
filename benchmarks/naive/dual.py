"""DualReal's adapters one after the other on every token, with the image's embedding repeated for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from starring.layers.dual import DualAdapter


def one_by_one(
    adapter: DualAdapter, x: Tensor, weights: Tensor, image: Tensor | None = None, sides: str = "both"
) -> Tensor:
    """``a (x + A(x)) + b (x + A'(x + W e))`` as it stands, the condition computed on as many tokens as there are."""
    assert image is not None
    a, b = weights[:, 0, None, None], weights[:, 1, None, None]
    one, other = adapter.identity, adapter.motion
    who = one.up(gelu(one.down(x))) + x
    condition = adapter.condition(image[:, None].repeat(len(x) // len(image), x.shape[1], 1))
    how = other.up(gelu(other.down(x + condition))) + x
    return torch.stack([a * who, b * how]).sum(0)


@contextmanager
def plainly(adapters: Any) -> Iterator[None]:
    """All adapters compute so."""
    pairs = [each for each in adapters.values() if isinstance(each, DualAdapter)]
    try:
        for pair in pairs:
            pair.forward = lambda *args, pair=pair, **named: one_by_one(pair, *args, **named)
        yield
    finally:
        for pair in pairs:
            del pair.forward
