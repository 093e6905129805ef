"""What computations cost, counted: floating-point operations, the largest tensor, the pictures seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def flops(compute: Callable[[], Any]) -> int:
    """Floating-point operations of a computation, backward included."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what comes out."""
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.bytes = max(self.bytes, *sizes, 0)
        return out


def largest(compute: Callable[[], Any]) -> int:
    """Bytes of the largest tensor that a computation makes."""
    with Largest() as watch:
        compute()
    return watch.bytes


def pictures(network: nn.Module, compute: Callable[[], Any]) -> int:
    """Pictures that go through an encoder's vision network, one by one or together."""
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _module, _args, output: seen.append(len(output[0])))
    try:
        compute()
    finally:
        handle.remove()
    return sum(seen)
