"""Attention written out: equal to the stock processor, and to its formula with the whole map in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.layers.attach import branch, swap
from starring.layers.attention import WrittenOut, attend, logit_columns, merged, others, overwritten, plain
from starring.layers.branches import LowRank

Array = NDArray[np.float64]


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def some(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return noise(0, 2, 3, 50, 8, dtype=dtype), noise(1, 2, 3, 9, 8, dtype=dtype), noise(2, 2, 3, 9, 8, dtype=dtype)


def test_attention_and_its_log_sum_exp() -> None:
    q, k, v = some()
    logits = q.numpy() @ k.numpy().swapaxes(-1, -2) / np.sqrt(8)
    out, lse = attend(q, k, v)
    np.testing.assert_allclose(out.numpy(), softmax(logits) @ v.numpy(), rtol=1e-10)
    np.testing.assert_allclose(lse.numpy(), np.log(np.exp(logits).sum(-1)), rtol=1e-10)
    np.testing.assert_allclose(logit_columns(q, k, [7, 2]).numpy(), logits[..., [7, 2]].swapaxes(-1, -2), rtol=1e-10)


@pytest.mark.parametrize("columns", [[4], [0, 3, 8], [8, 1]])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_overwriting_columns_is_overwriting_the_map(columns: list[int], dtype: torch.dtype, close: float) -> None:
    """Eq. 4 of arXiv 2505.06985: columns replaced before the softmax."""
    q, k, v = some(dtype)
    column = noise(3, 2, 3, len(columns), 50, dtype=torch.promote_types(dtype, torch.float32)) * 3
    maps = q.double().numpy() @ k.double().numpy().swapaxes(-1, -2) / np.sqrt(8)
    maps[..., columns] = column.double().numpy().swapaxes(-1, -2)
    expected = softmax(maps) @ v.double().numpy()
    got = overwritten(q, k, v, columns, column)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.double().numpy(), expected, atol=close * np.abs(expected).max())


def test_a_column_put_back_changes_nothing() -> None:
    q, k, v = some()
    torch.testing.assert_close(overwritten(q, k, v, [2, 5], logit_columns(q, k, [2, 5])), plain(q, k, v))


def test_probabilities_of_the_few_are_the_maps() -> None:
    q, k, v = some()
    out, lse = attend(q, others(k, [2, 5]), others(v, [2, 5]))
    _, few = merged(out, lse, logit_columns(q, k, [2, 5]), v[:, :, [2, 5]])
    maps = softmax(q.numpy() @ k.numpy().swapaxes(-1, -2) / np.sqrt(8))
    np.testing.assert_allclose(few.numpy(), maps[..., [2, 5]].swapaxes(-1, -2), rtol=1e-10)


@pytest.mark.parametrize("size", [-200.0, 200.0])
def test_very_large_and_very_small_logits(size: float) -> None:
    q, k, v = some(torch.float32)
    out = overwritten(q, k, v, [4], torch.full((2, 3, 1, 50), size))
    expected = v[:, :, 4:5].expand_as(out) if size > 0 else plain(q, others(k, [4]), others(v, [4]))
    torch.testing.assert_close(out, expected)


def test_gradient_flows_through_the_overwritten_map() -> None:
    q, k, v = (x.requires_grad_() for x in some())
    column = noise(3, 2, 3, 1, 50).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, v, c: overwritten(q, k, v, [4], c), (q[:1, :1, :4], k[:1, :1], v[:1, :1], column[:1, :1, :, :4])
    )
    loss = overwritten(q, k, v, [4], column).square().sum()
    gradients = torch.autograd.grad(loss, (q, k, v, column))
    maps = q @ k.transpose(-1, -2) / np.sqrt(8)
    maps = torch.cat([maps[..., :4], column.transpose(-1, -2), maps[..., 5:]], dim=-1)
    expected = torch.autograd.grad((maps.softmax(-1) @ v).square().sum(), (q, k, v, column))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["cross", "spatial", "temporal"])
def test_written_out_it_is_the_stock_processor(kind: str, tiny: Backbone) -> None:
    """In the real network, with branches on the projections of every layer."""
    x, t = noise(0, 2, 4, 3, 8, 8, dtype=torch.float32), torch.tensor(500)
    sites = tiny.sites(kind)
    ranks = [LowRank.beside(linear, 2) for s in sites.values() for linear in (s.to_q, s.to_v, s.to_out[0])]  # pyright: ignore
    torch.manual_seed(0)
    for rank in ranks:
        torch.nn.init.normal_(rank.up.weight)
    with torch.no_grad():
        text = tiny.encode_text(["a cat", "a dog on the beach"])
        bare = tiny.predict(x, t, text)
        from contextlib import ExitStack

        with ExitStack() as stack:
            places = [linear for s in sites.values() for linear in (s.to_q, s.to_v, s.to_out[0])]  # pyright: ignore
            for linear, rank in zip(places, ranks, strict=True):
                stack.enter_context(branch(linear, lambda out, y, r=rank: out + r(y)))
            expected = tiny.predict(x, t, text)
            stack.enter_context(swap(sites, lambda *_: WrittenOut(plain, 3)))
            got = tiny.predict(x, t, text)
        assert torch.equal(tiny.predict(x, t, text), bare)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, bare, atol=1e-3)


def test_frames_are_joined_and_the_text_is_read_once(tiny: Backbone) -> None:
    shapes: set[tuple[int, ...]] = set()

    def seen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.add((q.shape[0], k.shape[0], k.shape[2]))
        return plain(q, k, v)

    x = noise(0, 2, 4, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad(), swap(tiny.sites("cross"), lambda *_: WrittenOut(seen, 3)):
        tiny.predict(x, torch.tensor(500), tiny.encode_text(["a cat", "a dog"]))
    assert shapes == {(2, 2, 77)}


def test_a_layer_that_does_more_is_refused(tiny: Backbone) -> None:
    site: Any = next(iter(tiny.sites("cross").values()))
    with pytest.raises(StarringError, match="attention mask"):
        WrittenOut(plain)(site, noise(0, 1, 4, 16), None, torch.ones(1))
