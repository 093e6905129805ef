"""STPM, BridgeIV's structure and texture propagation module (arXiv 2505.06985, section 4.1).

An image and a film are denoised in step. What the image's attention says about the subject is carried into the film:
the logits of the subject's words in cross-attention (structure, SPM), the values of self-attention (texture, TPM). The
way from the image to a frame is a matching flow between the decoder's features, as they were one step earlier.

Legend: ``b`` batch (under guidance the negative prompt, then the prompt), ``f`` frame, ``h`` heads, ``n`` cells, ``d``
head width, ``c`` columns (pieces of the subject's words). ``B1`` to ``B21`` number the places where the paper can be
read in two ways; docs/methods/bridgeiv.md has the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from starring.errors import StarringError, check_choices
from starring.layers.attach import branch, swap
from starring.layers.attention import WrittenOut, attend, logit_columns, merged, others, plain
from starring.layers.matching import Flow, composed, cycle_error, grid, itself, match, reduced, resized, units, warp

CHOICES = {
    "chain": ("previous", "reference"),
    "values": ("enhanced", "raw"),
    "column": ("logits", "probabilities"),
    "heads": ("each", "mean"),
    "features": ("level", "enlarged", "two"),
    "mask": ("logits", "softmax", "binary"),
    "branch": ("both", "prompt"),
}
"""What an option that is a word may be, the default first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class STPM:
    """How structure and texture are propagated. Defaults are the paper's where it can be read in one way."""

    structure: bool = True
    """SPM: replace the logits of the subject's words in cross-attention (eq. 3 and 4)."""
    texture: bool = True
    """TPM: blend warped values into self-attention (eq. 6 and 7)."""
    chain: str = "previous"
    """Warp each frame from the ``previous`` one, the first from the reference (autoregressive, eq. 3), or every frame
    from the ``reference`` (B1)."""
    values: str = "enhanced"
    """Hand on the previous frame's ``enhanced`` values, or its ``raw`` ones, as is printed below eq. 6 (B2)."""
    column: str = "logits"
    """Replace ``logits``, before the softmax, or ``probabilities``, after it, and renormalise (B4)."""
    heads: str = "each"
    """A column for ``each`` head, or their ``mean`` for all (B5)."""
    features: str = "level"
    """What is matched (B7): the second to last ``level`` of the decoder, the same ``enlarged``, or ``two`` levels,
    enlarged and reduced to 256 principal components each, as in DreamMatcher (arXiv 2402.09812)."""
    softness: float = 0.0
    """Temperature of a soft-argmax instead of the argmax, such as 0.02 (B8); 0 is the argmax."""
    layers: tuple[int, int] | None = None
    """First and last transformer block that is changed, counted from 0 in the network's order (B9); ``None`` means
    all. DreamMatcher's are 10 to 15 of Stable Diffusion's 16."""
    steps: tuple[int, int] | None = None
    """First and last step at which anything is changed, counted from 0 (B9); ``None`` means all. The first step has no
    features to match and is always left alone. DreamMatcher's are 4 to 49 of 50."""
    mask: str = "logits"
    """The soft mask of eq. 7 from the warped ``logits``, from their ``softmax``, or the first cut at 0.05 (``binary``)
    (B10)."""
    branch: str = "both"
    """Blend values under ``both`` prompts of guidance, or under the film's own ``prompt`` only (B11). The logits of
    the subject's words exist under the prompt only."""
    confidence: float | None = None
    """Trust a match only if going there and back ends nearer than so many frame heights times the share of the
    picture that the subject fills (B21); ``None`` trusts all. DreamMatcher has 0.4."""

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        if self.softness < 0:
            raise StarringError(f"softness is {self.softness}, but a temperature cannot be negative; 0 is the argmax.")
        if self.confidence is not None and self.confidence <= 0:
            raise StarringError(f"confidence is {self.confidence}, but it must be positive, such as 0.4, or absent.")
        for name, window in (("layers", self.layers), ("steps", self.steps)):
            if window is not None and not 0 <= window[0] <= window[1]:
                raise StarringError(f"{name} is {list(window)}; give the first and the last one, such as [10, 15].")


def inside(window: tuple[int, int] | None, index: int) -> bool:
    """Whether a step or layer is one of those that are changed."""
    return window is None or window[0] <= index <= window[1]


class Propagation:
    """What one film and its reference image know of each other while they are denoised in step.

    For each step: the image's network call inside :meth:`watched`, then the film's inside :meth:`bridged`. Everything
    is keyed by the names of sites, and no attention map is ever held.

    Args:
        options: which readings of the paper.
        cross: cross-attention layers by name, in the network's order.
        spatial: self-attention layers by name; the i-th stands before the i-th of ``cross``.
        taps: the places whose outputs ``(b f) d h w`` are matched.
        columns: the positions of the subject's words in the prompt.
        size: frames, height and width of the film's latents.

    Raises:
        StarringError: if the layers do not come in pairs.
    """

    def __init__(
        self,
        options: STPM,
        cross: Mapping[str, nn.Module],
        spatial: Mapping[str, nn.Module],
        taps: Sequence[nn.Module],
        columns: Sequence[int],
        size: tuple[int, int, int],
    ) -> None:
        if len(cross) != len(spatial):
            raise StarringError(f"{len(spatial)} self-attention and {len(cross)} cross-attention layers do not pair.")
        self.options, self.cross, self.spatial, self.taps = options, dict(cross), dict(spatial), list(taps)
        self.columns, (self.frames, self.height, self.width) = list(columns), size
        self.before = dict(zip(list(spatial)[1:], cross, strict=False))
        self.changed = {
            name
            for sites in (cross, spatial)
            for i, name in enumerate(sites)
            if inside(options.layers, i) and (sites is cross or i > 0)
        }
        self.step = 0  # position in the schedule
        self.reference: dict[str, Tensor] = {}  # by cross: columns h c n; by spatial: values b h n d
        self.subject: dict[str, Tensor] = {}  # by cross: what the film's subject mask is made of, f n
        self.features: list[Tensor] = []  # of the step before, (1 + f) d h w
        self.seen: list[Tensor] = []  # of the image at this step, 1 d h w
        self.flows: dict[int, Flow] = {}  # by cells

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around the network's call on the reference image, ``b c 1 h w``, as a still: its columns, values, features.

        What this records is needed by the film's call of the same step.
        """
        self.reference.clear()
        self.seen = [torch.empty(0) for _ in self.taps]
        with ExitStack() as stack:
            stack.enter_context(swap(self.cross, partial(_written, self._watch_words, 1)))
            stack.enter_context(swap(self.spatial, partial(_written, self._watch_values, 1)))
            stack.enter_context(self._tapped(self.seen, 1))
            yield

    @contextmanager
    def bridged(self) -> Iterator[None]:
        """Around the network's call on the film, ``b c f h w``, at :attr:`step`: the reference goes into the frames."""
        o, now = self.options, [torch.empty(0) for _ in self.taps]
        self.flows.clear()
        self.subject.clear()
        with ExitStack() as stack:
            if self.features and inside(o.steps, self.step):
                values = {name: self.spatial[name] for name in self.before if o.texture and name in self.changed}
                masks = {self.before[name] for name in values}
                words = {n: m for n, m in self.cross.items() if n in masks or (o.structure and n in self.changed)}
                stack.enter_context(swap(words, partial(_written, self._structure, self.frames)))
                stack.enter_context(swap(values, partial(_written, self._texture, self.frames)))
            stack.enter_context(self._tapped(now, self.frames))
            yield
        self.features = [torch.cat(pair) for pair in zip(self.seen, now, strict=True)]

    @contextmanager
    def _tapped(self, store: list[Tensor], frames: int) -> Iterator[None]:
        """Keep the features under the prompt, ``frames d h w`` for each tap."""
        with ExitStack() as stack:
            for i, tap in enumerate(self.taps):
                stack.enter_context(branch(tap, partial(_kept, store, i, frames)))
            yield

    def _watch_words(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.reference[name] = self._column(q[-1:], k[-1:], v[-1:])
        return plain(q, k, v)

    def _watch_values(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.reference[name] = v
        return plain(q, k, v)

    def _column(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``A*``, the column of every piece of the subject's words, ``h c n``, under one prompt."""
        column = logit_columns(q, k, self.columns)[0]
        if self.options.column == "probabilities":
            column = column - attend(q, k, v)[1][0].unsqueeze(1)
        return column if self.options.heads == "each" else column.mean(0, keepdim=True).expand_as(column)

    def _structure(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """SPM under the prompt; queries come as ``b h (f n) d``."""
        o, own = self.options, (q[-1:], k[-1:], v[-1:])
        injected = o.structure and name in self.changed
        column = self._warped(name, own)
        if not injected and o.mask != "softmax":
            self._remember(name, column)
            return plain(q, k, v)
        # A probability p is the logit log p + log-sum-exp, whatever the other columns come to.
        logits = column if o.column == "logits" else column + attend(*own)[1][0].unsqueeze(1)
        out, lse = attend(own[0], others(own[1], self.columns), others(own[2], self.columns))
        out, probabilities = merged(out, lse, logits.unsqueeze(0), own[2][:, :, self.columns])  # eq. 4
        self._remember(name, probabilities[0] if o.mask == "softmax" else column)
        if not injected:
            return plain(q, k, v)
        return out if len(q) == 1 else torch.cat([plain(q[:-1], k[:-1], v[:-1]), out])

    def _warped(self, name: str, own: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Eq. 3 for all frames at once, ``h c (f n)``: the reference's column, gathered along the whole way.

        Where a match is not trusted, the frame's own column is what goes on from there.
        """
        flow, column = self.flow(own[0].shape[2] // self.frames), self.reference[name]
        if flow.trusted is not None:
            column = torch.cat([column, self._column(*own)], dim=-1)
        return column.index_select(-1, flow.path.flatten())

    def _remember(self, name: str, column: Tensor) -> None:
        self.subject[name] = column.mean((0, 1)).view(self.frames, -1)

    def _texture(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """TPM: eq. 6 blended by the mask of eq. 7; values come as ``(b f) h n d`` and are changed in place."""
        o, reference, n = self.options, self.reference[name], v.shape[2]
        flow, masks = self.flow(n), self.masks(self.before[name], n)
        if flow.trusted is not None:
            masks = masks * flow.trusted
        values = v.unflatten(0, (-1, self.frames))
        if o.branch == "prompt":
            reference, values = reference[-1:], values[-1:]
        blend(reference, values, flow.links, masks.to(v), chain=o.chain == "previous", raw=o.values == "raw")
        return plain(q, k, v)

    def masks(self, name: str, cells: int) -> Tensor:
        """Eq. 7: the subject in every frame, ``f n`` in [0, 1], from the last cross-attention, at another size."""
        column = self.subject[name]
        here, there = self._grid(column.shape[1]), self._grid(cells)
        soft = normalised(resized(column.view(-1, 1, *here), there).flatten(1))
        return (soft > 0.05).to(soft) if self.options.mask == "binary" else soft

    def flow(self, cells: int) -> Flow:
        """Eq. 5 and what follows it, once for each resolution and step."""
        if cells not in self.flows:
            o, size = self.options, self._grid(cells)
            maps = self.features[0] if len(self.features) == 1 else reduced(self.features)
            features = units(maps, size)
            target = features[1:]
            source = features[:1].expand_as(target) if o.chain == "reference" else features[:-1]
            links = match(source, target, o.softness, size[1])
            trusted = None
            if o.confidence is not None:
                back = match(target, source, o.softness, size[1])
                trusted = cycle_error(links, back, size[1]) <= o.confidence * size[0] * self._share()
            path = composed(links, trusted)
            if o.chain == "reference":
                path = links if trusted is None else torch.where(trusted, links, itself(links))
            self.flows[cells] = Flow(links=links, path=path, trusted=trusted)
        return self.flows[cells]

    def _share(self) -> float:
        """The share of the reference image that its subject fills, by its columns."""
        columns = [self.reference[name].mean((0, 1)).unsqueeze(0) for name in self.cross]
        return float(torch.stack([normalised(column).mean() for column in columns]).mean())

    def _grid(self, cells: int) -> tuple[int, int]:
        return grid(cells, self.height, self.width)


def _written(
    compute: Callable[[str, Tensor, Tensor, Tensor], Tensor], frames: int, name: str, site: nn.Module, former: object
) -> WrittenOut:
    return WrittenOut(partial(compute, name), frames)


def _kept(store: list[Tensor], index: int, frames: int, out: Tensor, *_: object, **__: object) -> Tensor:
    store[index] = out[-frames:].detach()
    return out


def normalised(maps: Tensor) -> Tensor:
    """``f n`` with each row's smallest value at 0 and its largest at 1; a row without contrast becomes 0.

    Where all cells match a single one, what is left of contrast is rounding, which differs between processors.
    """
    low, high = maps.aminmax(dim=1, keepdim=True)
    return torch.where(high - low > 1e-4, (maps - low) / (high - low).clamp_min(1e-4), 0)


def blend(
    reference: Tensor, values: Tensor, links: Tensor, masks: Tensor, *, chain: bool = True, raw: bool = False
) -> None:
    """Eq. 6 and the blend after it, in place: ``V_f <- Warp(V_(f-1)) M_f + V_f (1 - M_f)``, ``V_0`` the reference's.

    Args:
        reference: the reference's values, ``b h n d``.
        values: the frames' values, ``b f h n d``; overwritten.
        links: ``f n``, where each cell is warped from.
        masks: ``f n`` in [0, 1].
        chain: warp the frame before; ``False`` warps the reference into every frame.
        raw: warp the frame before as it was, instead of as it has become.
    """
    frames = range(values.shape[1])
    # Going backwards, a frame is read before it is overwritten.
    for i in reversed(frames) if raw else frames:
        source = values[:, i - 1] if chain and i > 0 else reference
        values[:, i].lerp_(warp(source, links[i]), masks[i].unsqueeze(-1))
