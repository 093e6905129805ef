"""What can be chosen in CustomVideoX (She et al., arXiv 2502.06527), its recipes, and the rows of its component table.

``C1`` to ``C22`` number the places where the paper can be read in two ways; docs/methods/customvideox.md has the list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from starring.backbones.base import PLACES
from starring.config import Data, Recipe, Sample, Stage, Train
from starring.errors import StarringError, unknown
from starring.layers.reference import FORMS, MAPS, MEMORIES, WAYS


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomVideoXConfig:
    """The choices inside CustomVideoX."""

    rank: int = 128
    """Inner width of the low-rank changes (appendix B)."""
    form: str = "joint"
    """``joint``: film and reference attend to each other in every step (eq. 4). ``cached``: the reference attends to
    itself alone, once, and its keys and values serve all steps (Algorithm 1). Training and filming must agree (C10)."""
    place: str = "width"
    """Where the reference's rotary positions lie beside the film's (eq. 5, C13)."""
    reference_height: int = 0
    """Height of the reference in pixels; 0 is the film's (C17)."""
    reference_width: int = 0
    """Its width, likewise."""
    clean_time: bool = True
    """Modulate reference tokens as at timestep 0, or, if false, as the film's (C12)."""
    decoupled: bool = False
    """Attend to the reference apart from everything else and add what is found, times exp(bias), to what the film's
    tokens see of the rest, instead of one softmax over both (C1)."""
    shown: bool = True
    """Show the reference at all. Without, a film is the plain model's, for comparison."""
    adapted: bool = True
    """Let the low-rank changes act at all. Without, the reference is one more frame to a model that never saw any: the
    naive way, for comparison."""
    everywhere: bool = False
    """Let the changes act on all tokens, and not on the reference's alone (C11)."""
    whole: bool = False
    """Learn changes of full rank, as the paper's learnable W_Q, W_K and W_V can be read, and not of low rank (C14);
    12 times as large in CogVideoX-5B."""
    tab: bool = True
    """Time-aware attention bias (section 4.2)."""
    tab_gamma: float = 10.0
    """gamma of M(t) = -gamma (2 t / T - 1)^2 + epsilon (eq. 6)."""
    tab_epsilon: float = 0.1
    """epsilon of M(t) (C22)."""
    tab_squash: str = "tanh"
    """``tanh``, which keeps the bias in (-1, 1), or ``none``, which switches the reference off at both ends (C3)."""
    tab_scale: float = 1.0
    """Factor of the squashed bias (C3)."""
    tab_flipped: bool = False
    """Strongest at both ends and weakest in the middle (C2)."""
    tab_unit: str = "time"
    """What t / T is: the ``time`` of the schedule, t / 999, or the ``step`` of the film, 1 at the first and 0 at the
    last (C4)."""
    tab_queries: str = "video"
    """Whose attention to the reference is biased: that of ``video`` tokens, or of ``all`` (C5)."""
    erae: bool = True
    """Entity region-aware enhancement (section 4.3); it needs the entity's word."""
    erae_threshold: float = 0.1
    """lambda of eq. 8."""
    erae_boost: float = 0.1
    """beta_1 of eq. 8."""
    erae_map: str = "minmax"
    """What is held against lambda (C7); see :attr:`starring.layers.reference.View.map`."""
    erae_over: str = "layer"
    """Whose map that is: each ``layer``'s own, the mean over the ``layers`` so far, or the layer's own of the step
    ``before`` (C7)."""
    erae_way: str = "logits"
    """What eq. 8 adds to: the ``logits`` towards the reference in the entity's region get ``erae_boost`` more, or are
    that much larger (``scale``: times 1 + boost), or what is seen of it is (``output``) (C8)."""
    product: bool = False
    """The time-aware bias inside the entity's region and none outside, instead of the sum of both biases (C9)."""
    bias_in_training: bool = False
    """Bias the attention in training too (C6)."""
    text_dropout: float = 0.1
    """Share of captions left out in training (C18)."""
    reference_dropout: float = 0.1
    """Share of references replaced by empty latents in training (C18)."""
    sampler: str = "ddim"
    """``ddim``: the backbone's own schedule. ``dpm``: CogVideoX's solver of second order over it, which also draws
    noise at every step (C21)."""
    guided: str = "both"
    """Which branch of guidance sees the reference: ``both``, or only the ``positive`` one, where the other sees empty
    latents (C18)."""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("form", self.form, FORMS),
            ("place for a reference", self.place, PLACES),
            ("squashing of the time-aware bias", self.tab_squash, ("tanh", "none")),
            ("queries of the time-aware bias", self.tab_queries, ("video", "all")),
            ("unit of the time-aware bias", self.tab_unit, ("time", "step")),
            ("map of the entity", self.erae_map, MAPS),
            ("range of the entity's map", self.erae_over, MEMORIES),
            ("way of the entity's region", self.erae_way, WAYS),
            ("sampler", self.sampler, ("ddim", "dpm")),
            ("guided branch", self.guided, ("both", "positive")),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if self.rank < 1:
            raise StarringError(f"CustomVideoX needs a rank of at least 1, not {self.rank}. The paper has 128.")
        for name in ("text_dropout", "reference_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise StarringError(f"{name} is {getattr(self, name)}, but it is a share in [0, 1).")
        if min(self.reference_height, self.reference_width) < 0 or (
            (self.reference_height > 0) != (self.reference_width > 0)
        ):
            raise StarringError(
                "A reference of another size than the film needs both reference_height and reference_width, in pixels,"
                f" such as 240 and 352; these are {self.reference_height} and {self.reference_width}."
            )
        if self.product and not (self.tab and self.erae):
            raise StarringError("product=True multiplies the two biases, so it needs tab and erae.")
        if self.product and self.erae_way != "logits":
            raise StarringError("product=True multiplies two biases of logits, so it needs erae_way='logits'.")
        if self.bias_in_training and self.erae_over == "before":
            raise StarringError(
                "Training has no step before: its timesteps are drawn at random. Choose erae_over='layer' or 'layers',"
                " or bias_in_training=False."
            )
        if self.form == "cached" and not self.clean_time:
            raise StarringError(
                "A reference that is read once for all steps has the timestep of none. Choose clean_time=True, or"
                " form='joint'."
            )


BINDING = frozenset(
    {"form", "place", "clean_time", "everywhere", "decoupled", "reference_height", "reference_width"}
)  # fmt: skip
"""What an adapter is used with as it was trained."""
STAGE = "adapter"
"""The one stage."""
PAPER = Recipe(
    method="customvideox",
    backbone="cogvideox-5b",
    stages=(
        Stage(
            name=STAGE,
            train=Train(
                steps=10_000, batch=1, accumulate=2, learning_rate=1e-5, weight_decay=1e-2, precision="bf16",
                checkpoint_every=500,
            ),
        ),
    ),
    data=Data(masks=False, unmasked=0.0, augment=False, flip=False, fit="crop", pace="film"),
    sample=Sample(frames=25, height=480, width=720, steps=50, guidance=6.0, fps=8),
    source="arXiv 2502.06527, section 6.1 and appendix B; guidance is CogVideoX's own (C18); 16 GPUs there",
)  # fmt: skip
RECIPES = {
    "customvideox": PAPER,
    "customvideox-miniature": replace(
        PAPER,
        backbone="miniature-dit",
        options={"rank": 64},
        stages=(
            replace(
                PAPER.stages[0],
                train=replace(
                    PAPER.stages[0].train, steps=2000, batch=8, accumulate=1, learning_rate=1e-3, warmup=100,
                    schedule="cosine", precision="no",
                ),
            ),
        ),
        sample=None,
        source="the paper's recipe at the miniature's size: rank, steps and rate are ours; not measured yet",
    ),
}  # fmt: skip
NAIVE: dict[str, Any] = {
    "tab": False, "erae": False, "product": False, "form": "joint", "decoupled": False, "adapted": False,
    "clean_time": False, "reference_height": 0, "reference_width": 0,
}  # fmt: skip
"""One more frame to a model that never saw any: no adapter, no bias, the film's own modulation."""
COMPONENTS: dict[str, dict[str, Any]] = {
    "3D reference attention": {"options": {"tab": False, "erae": False, "product": False}},
    "with TAB": {"options": {"tab": True, "erae": False, "product": False}},
    "with ERAE": {"options": {"tab": False, "erae": True, "product": False}},
    "CustomVideoX": {"options": {"tab": True, "erae": True}},
    "naive injection": {"options": {**NAIVE, "place": "none"}},
    "naive injection, before the film": {"options": {**NAIVE, "place": "before"}},
    "without reference": {"options": {"shown": False}},
}
"""The rows of the paper's component table: the reference as a plain frame on the film's first one (no component there),
3D reference attention, TAB with it, and all three. Ours are ERAE without TAB, the plain frame at a place of its own
before the film's first, and the same model without any reference."""
