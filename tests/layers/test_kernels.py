"""Attention kernels by name: which computes where, and what those of CUDA are given, seen without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from starring.errors import StarringError
from starring.layers import kernels
from starring.layers.joint import biased_attention
from starring.layers.kernels import CPU, CUDA, CUDNN_KERNEL, EFFICIENT_KERNEL, FORMULA, KNOWN, Kernel, kernel
from tests.layers.test_joint import Largest, tensors

HALF, SINGLE = torch.float16, torch.float32


@pytest.mark.parametrize("n", [1, 5, 300])
def test_the_formula_is_exact_however_many_queries_it_takes_at_a_time(n: int) -> None:
    """Against one softmax over everything: value, log-sum-exp and gradients, also where ``n`` leaves a rest."""
    q, k, v = (part.detach().requires_grad_() for part in tensors(torch.float64, n=n, m=70)[:3])
    logits = torch.einsum("bhnd,bhmd->bhnm", q, k) / 4
    exact, grad = logits.softmax(-1) @ v, torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        out, total = FORMULA.forward(q, k, v)
        found = FORMULA.backward(grad, q, k, v, out, total, [])
    torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total, logits.exp().sum(-1).log(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(exact, (q, k, v), grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [SINGLE, torch.bfloat16])
def test_the_formula_holds_no_queries_times_keys(dtype: torch.dtype) -> None:
    """As many numbers as there are in the queries, of single precision."""
    n, m = 512, 640
    parts = tensors(dtype, n=n, m=m, r=128, d=16)
    with Largest() as seen:
        groups = [(parts[1], parts[2]), (parts[3], parts[4])]
        biased_attention(parts[0], groups, parts[5], "_native_math").sum().backward()
    assert seen.most <= max(parts[0].numel(), parts[1].numel()) * 4
    assert seen.most < 2 * 3 * n * m * 4 / 10


def test_half_precision_sums_gradients_of_keys_in_single() -> None:
    q, k, v = (part.detach() for part in tensors(torch.bfloat16, n=2000, m=40, d=8)[:3])
    grad = torch.ones_like(q)
    found = FORMULA.backward(grad, q, k, v, *FORMULA.forward(q, k, v), [])
    single = [part.float() for part in (q, k, v)]
    exact = FORMULA.backward(grad.float(), *single, *FORMULA.forward(*single), [])
    for ours, theirs in zip(found[1:], exact[1:], strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() / theirs.norm() < 2e-2


@pytest.mark.parametrize(
    ("device", "dtype", "backend", "expected"),
    [
        ("cpu", SINGLE, "native", CPU), ("cpu", SINGLE, "flash", CPU), ("cpu", SINGLE, "_native_math", FORMULA),
        ("cuda", HALF, "native", CUDA), ("cuda", SINGLE, "native", EFFICIENT_KERNEL),
        ("cuda", torch.float64, "native", FORMULA), ("cuda", HALF, "_native_flash", CUDA),
        ("cuda", SINGLE, "flash", EFFICIENT_KERNEL), ("cuda", HALF, "_native_efficient", EFFICIENT_KERNEL),
        ("cuda", SINGLE, "_native_efficient", EFFICIENT_KERNEL), ("cuda", HALF, "_native_cudnn", CUDNN_KERNEL),
        ("cuda", SINGLE, "_native_math", FORMULA), ("mps", SINGLE, "native", FORMULA),
    ],
)  # fmt: skip
def test_a_backend_stands_for_a_kernel(device: str, dtype: torch.dtype, backend: str, expected: Kernel) -> None:
    usual = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with FakeTensorMode(), sdpa_kernel(usual, set_priority=True):
        assert kernel(torch.empty(1, 1, 8, 16, device=device, dtype=dtype), backend) is expected


def test_the_native_one_follows_the_order_that_torch_is_given() -> None:
    with FakeTensorMode():
        half, single, odd = (
            torch.empty(1, 1, 8, d, device="cuda", dtype=kind) for d, kind in ((16, HALF), (16, SINGLE), (12, HALF))
        )
        order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        with sdpa_kernel(order, set_priority=True):
            assert kernel(half, "native") is CUDNN_KERNEL
            assert kernel(single, "native") is EFFICIENT_KERNEL
        with sdpa_kernel(order[::-1], set_priority=True):
            assert kernel(half, "native") is EFFICIENT_KERNEL
        with sdpa_kernel(SDPBackend.MATH):
            assert kernel(half, "native") is FORMULA
        assert kernel(odd, "native") is FORMULA, "kernels of CUDA take multiples of 8"


def test_kernels_that_cannot_are_refused_with_those_that_can() -> None:
    query = torch.zeros(1, 1, 8, 16)
    with pytest.raises(StarringError, match=r"'sage' does not tell .* native, .*_native_cudnn.*tab=False"):
        kernel(query, "sage")
    with pytest.raises(StarringError, match=r"'_native_efficient' computes on CUDA, .* on 'cpu' in float32\. .*native"):
        kernel(query, "_native_efficient")
    with FakeTensorMode(), pytest.raises(StarringError, match=r"'_native_cudnn' .* half precision, .* in float32"):
        kernel(torch.empty(1, 1, 8, 16, device="cuda"), "_native_cudnn")
    assert set(KNOWN) > {"native", "flash"}


class Asked(TorchDispatchMode):
    """The operations that were asked for, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, ...]] = {}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        self.calls[func.__name__.removesuffix(".default")] = args
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("backend", "dtype", "name"),
    [("native", SINGLE, "efficient"), ("_native_efficient", HALF, "efficient"), ("_native_cudnn", HALF, "cudnn"),
     ("_native_flash", HALF, "flash")],
)  # fmt: skip
def test_cudas_kernels_are_called_as_they_are_declared(backend: str, dtype: torch.dtype, name: str) -> None:
    """Tensors without data, on a device that is not there: shapes and arguments of forward and backward."""
    with FakeTensorMode(), torch.no_grad(), Asked() as asked:
        q, k, v = (torch.empty(2, 3, n, 16, device="cuda", dtype=dtype) for n in (37, 50, 50))
        used = kernel(q, backend)
        out, total, *rest = used.forward(q, k, v)
        grads = used.backward(out, q, k, v, out, total, rest)
    assert out.shape == q.shape
    assert total.shape == (2, 3, 37)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]
    forward, back = f"_scaled_dot_product_{name}_attention", f"_scaled_dot_product_{name}_attention_backward"
    assert {forward, back} <= set(asked.calls)
    if name == "efficient":
        assert asked.calls[forward][3:] == (None, True)
        assert asked.calls[back][6].shape == (2, 3, 64), "padded to what the kernel reads"
    if name == "cudnn":
        assert asked.calls[back][5].shape == (2, 3, 37, 1)


def test_what_the_memory_efficient_kernel_pads_is_nothing() -> None:
    """Its backward reads log-sum-exps of queries that are not there: their probability has to be 0."""
    given: list[Tensor] = []

    class Operations:
        def __getattr__(self, _: str) -> Any:
            def called(*args: Any) -> tuple[Any, ...]:
                given.append(args[6])
                return args[1], args[2], args[3], None

            return called

    part = torch.zeros(1, 1, 5, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_aten", Operations())
        EFFICIENT_KERNEL.backward(part, part, part, part, part, torch.zeros(1, 1, 5), [part, part])
    assert given[0].shape == (1, 1, 32)
    assert not given[0][..., :5].any()
    assert not (-given[0][..., 5:]).exp().any()


def test_the_kernel_of_forward_is_that_of_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is enabled by then."""
    parts = tensors(torch.float64)
    out = biased_attention(parts[0], [(parts[1], parts[2]), (parts[3], parts[4])], parts[5], "native")

    def other(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(kernels, "CPU", Kernel(other, other))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), parts))
