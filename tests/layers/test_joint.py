"""The merged attention against one softmax written out: values, gradients, and what it allocates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from starring.errors import StarringError
from starring.layers import joint, kernels
from starring.layers.attention import attend
from starring.layers.joint import biased_attention, entity_map, plain_attention, stretched
from starring.layers.kernels import Kernel, chosen


def tensors(dtype: torch.dtype, n: int = 37, m: int = 50, r: int = 13, d: int = 16, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, n, d), (2, 3, m, d), (2, 3, m, d), (2, 3, r, d), (2, 3, r, d), (2, 1, n)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def slow(parts: list[Tensor]) -> Tensor:
    """One softmax over all keys with a dense bias, in plain arithmetic."""
    q, k, v, far_k, far_v, bias = parts
    own, far = torch.einsum("bhnd,bhmd->bhnm", q, k), torch.einsum("bhnd,bhmd->bhnm", q, far_k)
    logits = torch.cat([own, far], -1) / q.shape[-1] ** 0.5
    dense = torch.zeros_like(logits)
    dense[..., k.shape[2] :] += bias.expand(*q.shape[:3])[..., None] if bias.ndim else bias
    weights = (logits + dense).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhmd->bhnd", weights, torch.cat([v, far_v], 2))


def merged(parts: list[Tensor]) -> Tensor:
    query, key, value, far_key, far_value, bias = parts
    return biased_attention(query, [(key, value), (far_key, far_value)], bias)


@pytest.mark.parametrize("scalar", [False, True])
def test_values_and_gradients_are_exact_in_double(scalar: bool) -> None:
    parts = tensors(torch.float64)
    if scalar:
        parts[5] = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    ours, theirs = merged(parts), slow(parts)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), parts), torch.autograd.grad((theirs * weight).sum(), parts),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_three_groups_and_a_bias_that_is_measured_are_exact_in_double() -> None:
    *parts, _ = tensors(torch.float64)
    q, k, v, far_k, far_v = parts
    words, seen = 11, list[Tensor]()

    def bias(sums: Sequence[Tensor]) -> Tensor:
        seen.extend(sums)
        return sums[0].mean(1, keepdim=True) - 2

    groups = [(k[:, :, :words], v[:, :, :words]), (k[:, :, words:], v[:, :, words:]), (far_k, far_v)]
    ours = biased_attention(q, groups, bias)
    for found, key in zip(seen, (k[:, :, :words], k[:, :, words:], far_k), strict=True):
        written = torch.einsum("bhnd,bhmd->bhnm", q, key).div(4).exp().sum(-1).log()
        torch.testing.assert_close(found, written, rtol=1e-12, atol=1e-12)
    theirs = slow([*parts, seen[0].mean(1, keepdim=True).detach()[:, 0][:, None] - 2])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = zip(*(torch.autograd.grad((out * weight).sum(), parts) for out in (ours, theirs)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_single_precision_is_as_good_as_torchs_own() -> None:
    parts = tensors(torch.float32)
    exact = slow([p.double() for p in parts])
    error = (merged(parts) - exact).norm() / exact.norm()
    assert error < 1e-6


def test_the_formula_of_other_devices_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tensors(torch.float64)
    weight = torch.randn(parts[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fused = torch.autograd.grad((merged(parts) * weight).sum(), parts)
    monkeypatch.setattr(joint, "kernel", lambda *_: kernels.FORMULA)
    written = torch.autograd.grad((merged(parts) * weight).sum(), parts)
    for a, b in zip(fused, written, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_no_bias_is_plain_attention_over_all_keys() -> None:
    q, k, v, far_k, far_v, _ = tensors(torch.float64)
    ours = biased_attention(q, [(k, v), (far_k, far_v)], torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(ours, plain_attention(q, torch.cat([k, far_k], 2), torch.cat([v, far_v], 2)))
    gone = biased_attention(q, [(k, v), (far_k, far_v)], torch.tensor(-torch.inf, dtype=torch.float64))
    torch.testing.assert_close(gone, plain_attention(q, k, v))


def test_one_reference_may_serve_a_whole_batch() -> None:
    q, k, v, far_k, far_v, bias = tensors(torch.float64)
    one, other = far_k[:1], far_v[:1]
    shared = biased_attention(q, [(k, v), (one.expand(2, -1, -1, -1), other.expand(2, -1, -1, -1))], bias)
    torch.testing.assert_close(shared, slow([q, k, v, one.repeat(2, 1, 1, 1), other.repeat(2, 1, 1, 1), bias]))
    (grad,) = torch.autograd.grad(shared.square().sum(), far_k)
    assert grad[0].abs().max() > 0
    assert not grad[1].any()


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation made."""

    most = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        out = func(*args, **(kwargs or {}))  # type: ignore[operator]
        sizes = [t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.most = max(self.most, *sizes, 0) if sizes else self.most
        return out


@pytest.mark.slow
@pytest.mark.parametrize("n", [512, 1024])
def test_no_tensor_of_queries_times_keys_is_made(n: int) -> None:
    parts = tensors(torch.float32, n=n, m=n, r=128, d=64)
    with Largest() as seen:
        out = merged(parts)
        out.sum().backward()
    assert seen.most <= 2 * parts[0].numel() * 4
    with Largest() as dense:
        slow(parts)
    assert dense.most > n / 64 * parts[0].numel() * 4


def test_the_log_sum_exp_is_one() -> None:
    q, k, v, *_ = tensors(torch.float64)
    logits = (q @ k.transpose(-1, -2) / 4).detach().numpy()
    torch.testing.assert_close(attend(q, k, v)[1].detach(), torch.from_numpy(np.log(np.exp(logits).sum(-1))))


def test_the_entitys_map_is_the_softmax_over_the_text() -> None:
    q, k, *_ = (part.detach() for part in tensors(torch.float64))
    entity = torch.zeros(2, 50)
    entity[0, 3:5], entity[1, 7] = 1, 1
    q_, k_ = q.numpy(), k.numpy()
    expected = np.zeros((2, 37))
    for b, tokens in ((0, (3, 4)), (1, (7,))):
        for i in range(37):
            for head in range(3):
                logits = np.array([q_[b, head, i] @ k_[b, head, j] / 4 for j in range(50)])
                share = np.exp(logits) / np.exp(logits).sum()
                expected[b, i] += sum(share[j] for j in tokens) / 3
    columns, total = torch.tensor([3, 4, 7]), attend(q, k, torch.zeros_like(k))[1]
    np.testing.assert_allclose(entity_map(q, k[:, :, columns], entity[:, columns], total).numpy(), expected, rtol=1e-5)


def test_maps_are_stretched_frame_by_frame() -> None:
    maps = torch.tensor([[1.0, 3.0, 2.0, 5.0, 5.0, 5.0]])
    assert stretched(maps, 2).tolist() == [[0.0, 1.0, 0.5, 0.0, 0.0, 0.0]]


def test_a_chosen_backend_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, far_k, far_v, bias = (part.detach() for part in tensors(torch.float32))
    plain, written, computed = plain_attention(q, k, v), merged([q, k, v, far_k, far_v, bias]), list[str]()
    original, formula = joint.dispatch_attention_fn, kernels.FORMULA

    def watched(*args: Tensor, backend: object) -> Tensor:
        computed.append(f"plain {chosen(backend)}")
        return original(*args, backend=backend)

    def watched_formula(*args: Tensor) -> tuple[Any, ...]:
        computed.append("formula")
        return formula.forward(*args)

    monkeypatch.setattr(joint, "dispatch_attention_fn", watched)
    monkeypatch.setattr(kernels, "FORMULA", Kernel(watched_formula, formula.backward))
    groups = [(k, v), (far_k, far_v)]
    torch.testing.assert_close(plain_attention(q, k, v, "_native_math"), plain)
    torch.testing.assert_close(biased_attention(q, groups, bias, "_native_math"), written)
    assert computed == ["plain _native_math", "formula", "formula"]
    computed.clear()
    with attention_backend("_native_math"):  # for every model
        torch.testing.assert_close(plain_attention(q, k, v), plain)
        torch.testing.assert_close(biased_attention(q, groups, bias), written)
    assert computed == ["plain _native_math", "formula", "formula"]
    computed.clear()
    assert torch.equal(plain_attention(q, k, v), plain)
    assert torch.equal(biased_attention(q, groups, bias), written)
    assert computed == []
    with pytest.raises(StarringError, match=r"'flex' does not tell .* Choose one of native, .*tab=False"):
        biased_attention(q, groups, bias, "flex")
