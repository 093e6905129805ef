"""What can be chosen in DualReal (Wang et al., arXiv 2505.02192), its recipes, and the rows of its tables.

``D1`` to ``D8`` number the places where paper and released code leave a choice; docs/methods/dualreal.md has the list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from starring.config import Data, Recipe, Sample, Stage, Train
from starring.errors import StarringError, check_choices
from starring.layers.blender import SQUASHES
from starring.layers.dual import SIDES

STAGE = "joint"
"""The stage in which identity and motion are learned."""
GROUPS = 7
"""The paper's number of groups (Table 3), for 42 blocks."""
CHOICES = {
    "squash": SQUASHES,
    "sides": SIDES,
    "controller_learns": SIDES,
    "resting": ("none", "zero"),
    "apart": ("half", "whole"),
}
"""What an option that is a word may be, the default first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DualRealConfig:
    """The choices inside DualReal."""

    class_word: str = ""
    """What the subject is, such as ``dog``."""
    star: str = "*"
    """What follows the class word where the subject is named: no new word, but a piece that T5 knows (D7)."""
    hidden: int = 64
    """Inner width of the adapters (released code)."""
    image_width: int = 1024
    """Width of the embeddings of ``encoder``."""
    encoder: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """CLIP that embeds a frame of each clip for the motion's adapters, and a photograph in its place for films."""
    legacy_clip_norm: bool = False
    """Show ``encoder`` the clips' frames as the released code does in training, stretched to a square and scaled to
    [-1, 1], and not cut and normalised by CLIP's statistics."""
    photograph: int = 0
    """Number of the photograph that stands there in films, from 0."""
    stretch: bool = False
    """Show ``encoder`` the photograph as the released code does for films, stretched to a square, and not cut."""
    identity_image: bool = False
    """Show it to the motion's adapters in steps on photographs too, which the released code leaves without image."""
    total: float = 0.2
    """a + b, the sum of both adapters' weights; the paper writes 1, the released code has 0.2."""
    controller: bool = True
    """Let the StageBlender weigh them, and not one half each (Table 2)."""
    groups: int | None = None
    """Groups of neighbouring blocks with weights of their own; they must divide the blocks. 0 is one for each block.
    ``None`` is 7, or the greatest divisor below it (Table 3)."""
    squash: str = "sigmoid"
    """How the controller's outputs become shares: ``sigmoid`` (released code), or ``softmax`` over groups (paper)."""
    joint: bool = True
    """Let both adapters act in training. Without, each side learns as if the other were fresh, and they first meet in
    a film (Table 2)."""
    apart: str = "half"
    """What a side weighs while it learns apart: ``half`` of ``total``, which it has in films as well, or the ``whole``,
    as eq. 3 gives it when there is no other."""
    controller_learns: str = "both"
    """In which steps the controller learns: in ``both`` kinds (released code), or only in those on the ``identity`` or
    on the ``motion`` (D2)."""
    adapter_rate: float = 1.0
    """The bottlenecks' learning rate over the recipe's, which the controller and the image's map have. In a narrow
    network as many of Adam's steps move an output less far."""
    resting: str = "none"
    """What the side that rests gets for a gradient: ``none``, so that the optimizer passes it by, or ``zero``, under
    which weight decay and old moments still move it (D3)."""
    sides: str = "both"
    """Whose adapters act in films: ``both``, or ``identity`` or ``motion`` alone, to see what each has learned."""

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        for name, least in (("hidden", 1), ("image_width", 1), ("photograph", 0), ("groups", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise StarringError(f"{name} is {value}, but it must be at least {least}.")
        if not self.adapter_rate > 0:
            raise StarringError(f"adapter_rate is {self.adapter_rate}, but it must be above 0, as 1.")
        if not self.total > 0:
            raise StarringError(f"total is {self.total}, but the adapters' weights must have a positive sum, as 0.2.")
        if self.apart == "whole" and (self.joint or self.controller):
            raise StarringError("apart=whole is for sides that learn apart. Give joint=false and controller=false too.")
        if self.squash == "softmax" and self.groups == 1:
            raise StarringError("A softmax over one group is always 1. Choose more groups, or squash=sigmoid.")


PAPER = Recipe(
    method="dualreal",
    backbone="cogvideox-5b",
    stages=(
        Stage(
            name=STAGE,
            train=Train(
                steps=1000, batch=1, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=1e-4, max_grad_norm=1.0,
                schedule="cosine_with_restarts", warmup=200, precision="bf16", checkpoint_every=100,
            ),
            clips=3,
        ),
    ),
    data=Data(masks=False, unmasked=0.0, augment=False, flip=False, fit="letterbox", template="<*> {class_word}"),
    sample=Sample(frames=49, height=480, width=720, steps=50, guidance=6.0, fps=8),
    source="arXiv 2505.02192, section 4.1, and the released code (batches, betas, decay, warm-up, bottleneck)",
)  # fmt: skip
RECIPES = {
    "dualreal": PAPER,
    "dualreal-miniature": replace(
        PAPER, backbone="miniature-dit", sample=None,
        options={"encoder": "miniature", "image_width": 96, "groups": 4, "identity_image": True, "adapter_rate": 10.0},
        stages=(replace(PAPER.stages[0], clip_share=0.6, train=replace(
            PAPER.stages[0].train, steps=1200, warmup=80, precision="no",
        )),),
        source="the paper's recipe at the miniature's size; chosen on two subjects that nothing was trained on",
    ),
}  # fmt: skip
COMPONENTS: dict[str, dict[str, Any]] = {
    "without joint adaptation": {"options": {"joint": False, "controller": False}},
    "without controller": {"options": {"controller": False}},
    "without groups (n = 1)": {"options": {"groups": 1}},
    "n = 2": {"options": {"groups": 2}},
    "n = blocks": {"options": {"groups": 0}},
    "DualReal": {"options": {}},
}
"""The rows of Tables 2 and 3; ``n = 1`` stands in both."""
