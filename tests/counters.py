"""What computations cost, counted instead of timed; works on meta tensors, so without the memory itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30


class Alive(TorchDispatchMode):
    """Bytes of all tensors that operations made and that still exist, and the most there ever were.

    Everything counts: what is kept for backward, what is recomputed, and what is on its way.
    """

    def __init__(self, without: Iterable[nn.Module] = ()) -> None:
        """Leave out the weights of ``without``."""
        super().__init__()
        self.now = self.peak = 0
        own = [t for module in without for t in (*module.parameters(), *module.buffers())]
        self._known = {t.untyped_storage()._cdata for t in own}
        self._own = own  # alive, so that nothing else gets their place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def fused(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention as accelerators compute it. On meta tensors torch would take the formula, which holds whole maps."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        assert (dropout_p, enable_gqa) == (0, False)
        kernel: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]

    with patch.context() as inside:
        inside.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
        yield
