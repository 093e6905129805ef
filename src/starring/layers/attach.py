"""Putting things on a frozen network and taking them off again, exactly.

Everything here is a context manager. On exit, also after an error, the network is bit for bit what it was. Under
gradient checkpointing ``backward`` runs the network once more: call it inside the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from starring.errors import StarringError


@contextmanager
def branch(site: nn.Module, add: Callable[..., Any]) -> Iterator[None]:
    """Let ``add`` change what ``site`` returns.

    ``add(out, *args, **kwargs)`` is called with the site's output and with everything the site was called with, and
    returns the new output. Several branches on one site apply in the order they were entered.
    Recomputation under gradient checkpointing calls ``add`` again: it must be a function of its arguments, and whatever
    it writes down must be keyed by the site's name, never by the number of calls.
    """
    handle = site.register_forward_hook(lambda _, args, kwargs, out: add(out, *args, **kwargs), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def swap(sites: Mapping[str, nn.Module] | Iterable[nn.Module], make: Callable[..., Any]) -> Iterator[None]:
    """Change how attention is computed: ``site.processor`` becomes another one.

    The processor is set past ``nn.Module``'s registration, so that one with weights never enters the backbone's state
    dict. It must name all keyword arguments of its ``__call__``: ``Attention.forward`` drops those it does not name.

    Args:
        sites: attention modules, by name or not.
        make: called as ``make(name, site, previous)`` for each (``name`` is its position when ``sites`` has no names),
            returns the new processor. All processors are made before the first is set.

    Raises:
        StarringError: if a site has no processor.
    """
    named = list((sites if isinstance(sites, Mapping) else {str(i): site for i, site in enumerate(sites)}).items())
    for name, site in named:
        if not hasattr(site, "processor"):
            raise StarringError(f"'{name}' is a {type(site).__name__} without an attention processor; nothing to swap.")
    fresh = [(site, make(name, site, site.processor)) for name, site in named]
    undo: list[Callable[[], None]] = []
    try:
        for site, processor in fresh:
            undo.append(_override(site, "processor", processor))
        yield
    finally:
        for restore in reversed(undo):
            restore()


@contextmanager
def lend(module: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a module with other weights: its parameters (or buffers) of these names are replaced, not copied.

    Gradient flows to the given tensors, which may be results of a computation. The module's own are back on exit, as
    the same objects.

    Args:
        module: the network or a part of it.
        parameters: dotted names inside ``module`` and tensors of the same shape.

    Raises:
        StarringError: if a name does not exist or a shape differs; nothing is changed then.
    """
    places: list[tuple[nn.Module, str, Tensor]] = []
    for path, value in parameters.items():
        owner, own, name = _owner(module, path)
        if own.shape != value.shape:
            raise StarringError(
                f"'{path}' has shape {tuple(own.shape)}, and {tuple(value.shape)} was lent. Lend a tensor of its shape."
            )
        places.append((owner, name, value))
    undo: list[Callable[[], None]] = []
    try:
        for owner, name, value in places:
            undo.append(_override(owner, name, value))
        yield
    finally:
        for restore in reversed(undo):
            restore()


@contextmanager
def recomputed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep only what goes into these modules for backward, and compute again there what is inside them.

    Gradient is the same, bit for bit, if each module is a function of its inputs: there must be no dropout.
    """
    undo: list[Callable[[], None]] = []
    try:
        for module in modules:
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            undo.append(_override(module, "forward", again))
        yield
    finally:
        for restore in reversed(undo):
            restore()


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for a gradient, and they are in evaluation mode; each as it was on exit."""
    parameters = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(m, m.training) for module in modules for m in module.modules()]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for parameter, asked in parameters:
            parameter.requires_grad_(asked)
        for module, training in modes:
            module.training = training


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, Tensor, str]:
    prefix, _, name = path.rpartition(".")
    try:
        owner = module.get_submodule(prefix)
    except AttributeError as error:
        raise StarringError(
            f"{type(module).__name__} has no part '{prefix}' that a tensor could be lent to."
        ) from error
    own = getattr(owner, name, None)
    if not isinstance(own, Tensor):
        raise StarringError(f"{type(owner).__name__} '{prefix}' has no parameter or buffer '{name}'.")
    return owner, own, name


def _override(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Let ``module.name`` be ``value``, past torch's registries, and return what puts the former state back.

    An entry in the instance's own dictionary is what attribute look-up finds first, so the registries keep the original
    in its place and order.
    """
    attributes = vars(module)
    had, former = name in attributes, attributes.get(name)
    attributes[name] = value

    def restore() -> None:
        if had:
            attributes[name] = former
        else:
            attributes.pop(name, None)

    return restore
