"""A second device where there is none: real numbers, computed on the CPU, that must not meet those of the CPU.

A GPU refuses to compute with tensors that lie on the CPU, and only where there is one does that show. Here a tensor may
lie *elsewhere*: for torch it is on a device of its own, an accelerator, while its numbers are in a tensor of the CPU.
Inside :func:`elsewhere` every operation is computed, and one that mixes both devices raises what it would on a GPU.

The device stays for the life of the process, and autograd counts devices before its first gradient: import this first,
in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
aten: Any = torch.ops.aten
CROSSING = {
    aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
}  # fmt: skip
"""What may have tensors of both devices: copies; and the places that are indexed by may lie on the CPU."""


class _Module:
    """What torch asks of ``torch.elsewhere``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None: ...

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, _Module())
CPU, ELSEWHERE = torch.device("cpu"), torch.device(NAME, 0)


class Far(Tensor):
    """A tensor that lies elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=ELSEWHERE,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Far({self.inner!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, while tensors can be made on it."""
    with _Operations():
        yield ELSEWHERE


def computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation, where its tensors lie.

    Raises:
        RuntimeError: if they lie on two devices, or random numbers are drawn there by a generator of the CPU.
    """
    leaves = tree_leaves((args, kwargs))
    far = [each for each in leaves if isinstance(each, Far)]
    near = [each for each in leaves if isinstance(each, Tensor) and not isinstance(each, Far) and each.ndim]
    if far and near and func not in CROSSING:
        raise RuntimeError(f"{func} mixes two devices: {[tuple(each.shape) for each in near]} lie on the CPU.")
    asked = kwargs.get("device")
    if func is aten.copy_.default:
        there = isinstance(args[0], Far)
    else:
        there = bool(far) if asked is None else torch.device(asked).type == NAME
    if there and any(isinstance(each, torch.Generator) for each in leaves):
        raise RuntimeError(f"{func} draws elsewhere by a generator of the CPU.")
    known = {id(each.inner): each for each in far}
    out = func(*_inner(args), **_inner({**kwargs} if asked is None else {**kwargs, "device": CPU}))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Far(value)  # what is changed in place is returned itself

    return tree_map(placed, out) if there else out


def _inner(values: Any) -> Any:
    return tree_map(lambda each: each.inner if isinstance(each, Far) else each, values)


def _kernels() -> torch.library.Library:
    """What torch calls by itself, below any mode, as it does to index by a list."""
    library = torch.library.Library("aten", "IMPL")
    for name, operation in (
        ("empty_strided", aten.empty_strided.default), ("empty.memory_format", aten.empty.memory_format),
        ("copy_", aten.copy_.default), ("_to_copy", aten._to_copy.default),
    ):  # fmt: skip

        def run(*args: Any, operation: Any = operation, **kwargs: Any) -> Any:
            return computed(operation, args, kwargs)

        library.impl(name, run, "PrivateUse1")
    return library


_LIBRARY = _kernels()
