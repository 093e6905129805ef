"""What can be chosen in PersonalVideo (Li et al., arXiv 2411.17048), its recipes, and the rows of its tables.

``P1`` to ``P10`` number the places where the paper can be read in two ways; docs/methods/personalvideo.md has the list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from starring.config import Data, Recipe, Stage, Train
from starring.errors import StarringError, check_choices
from starring.methods.base import PLACEHOLDER
from starring.methods.rewards import Looks
from starring.methods.words import INITS, WORDS_STAGE

LAYERS = {"self": ("spatial",), "cross": ("cross",), "both": ("spatial", "cross")}
CHOICES = {
    "init": INITS,
    "layers": tuple(LAYERS),
    "opens": ("index", "timestep"),
    "tuning": ("film", "still"),
    "penalised": ("factors", "product"),
}
"""What an option that is a word may be, the default first."""
ADAPTER_STAGE = "adapter"
"""The stage in which the adapter learns from a reward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalVideoConfig(Looks):
    """The choices inside PersonalVideo; those of :class:`starring.methods.rewards.Looks` are its reward's."""

    class_word: str = ""
    """What the subject is, such as ``woman``."""
    vectors: int = 1
    """Learned words, 1 to 8."""
    init: str = "class"
    """Where they start: from the ``class`` word, or from the ``average`` of the vocabulary."""
    candidates: int = 1
    """Sets of words that are learned side by side, each from its part of every batch; before the adapter learns, that
    is kept whose films the reward likes best. The paper has one."""
    auditions: int = 8
    """Films of each set by which it is judged, with equal prompts and noise."""
    rank: int = 64
    """Inner width of the adapter; the paper has none."""
    alpha: float | None = None
    """Strength of the adapter; ``None`` means the rank."""
    layers: str = "self"
    """Which attention it changes: ``self`` within frames, ``cross`` to the text, or ``both`` (Table 3b)."""
    share: float = 0.25
    """Share of the sampling steps, the last ones, in which the adapter is open (P2, Table 3a)."""
    opens: str = "index"
    """The last by ``index``, or by ``timestep``: up to that share of the schedule, and a hundredth more (P2)."""
    tuning: str = "film"
    """What the reward looks at: frames of a ``film``, or a ``still`` of the image model (Table 2)."""
    prompts: tuple[str, ...] = ()
    """Simulated prompts with ``<*>`` (section 4.3); in a recipe's options also a text file, one prompt a line."""
    simulated: int = 50
    """How many are written where ``prompts`` gives none. With 0 all are ``photo of a <*> class_word`` (Table 2)."""
    world: str = "photographs"
    """Which words they are made of: of ``photographs``, or of the bundled ``miniature``."""
    steps: int = 4
    """Sampling steps of a training film."""
    guidance: float = 1.0
    """Classifier-free guidance of a training film (P7)."""
    frames: int | None = None
    """Frames of a training film; ``None`` takes the backbone's own number."""
    pool: int = 0
    """Draw the films from so many kept starts: latents before the adapter opens, which never change as long as words
    and backbone do not. Rounded up to the same number of each prompt; 0 draws every film from fresh noise."""
    penalty: float = 1e-3
    """lambda of the weight-space loss (P4)."""
    penalised: str = "factors"
    """What it is of: both ``factors`` and their distance from where they started, or their ``product`` (P4)."""
    eyes: str = ""
    """Who looks (:func:`starring.perception.identity.load_identity_eyes`); empty takes the backbone's own."""
    accept_licence: bool = False
    """The weights named in ``eyes`` may be used, though those of the ArcFace family are for research only."""
    face: str = ""
    """Whose face it is where a photograph shows several: ``largest``, or a number from 0, the largest first."""
    correlation: float = 0.0
    """Gamma of the noise prior (arXiv 2402.09368, eq. 4) at inference; the paper has none."""

    def __post_init__(self) -> None:
        Looks.__post_init__(self)
        check_choices(self, CHOICES)
        if not 1 <= self.vectors <= 8:
            raise StarringError(f"PersonalVideo learns 1 to 8 words, not {self.vectors}. The paper has 1.")
        if not 0 < self.share <= 1:
            raise StarringError(f"share is {self.share}, but it must lie in (0, 1]: the last part of the steps.")
        if not 0 <= self.correlation < 1:
            raise StarringError(f"The noise prior's correlation is {self.correlation}, but it must lie in [0, 1).")
        for name, bound in {
            "candidates": 1,
            "auditions": 1,
            "steps": 1,
            "pool": 0,
            "simulated": 0,
            "penalty": 0,
        }.items():
            if getattr(self, name) < bound:
                raise StarringError(f"{name} is {getattr(self, name)}, but it must be at least {bound}.")
        lacking = [prompt for prompt in self.prompts if PLACEHOLDER not in prompt]
        if lacking:
            raise StarringError(f"The simulated prompt '{lacking[0]}' does not name the subject. Put {PLACEHOLDER} in.")


PAPER = Recipe(
    method="personalvideo",
    backbone="animatediff",
    stages=(
        Stage(name=WORDS_STAGE, train=Train(steps=400, batch=4, learning_rate=1e-3, checkpoint_every=200)),
        Stage(
            name=ADAPTER_STAGE,
            train=Train(steps=400, batch=1, learning_rate=1e-4, checkpoint_every=100),
            backbone="animatelcm",
            rewarded=True,
        ),
    ),
    data=Data(size=512, masks=False, unmasked=0.0, augment=False, variants=64),
    source="arXiv 2411.17048, appendix A.1; rank, lambda and jitter are not given",
)
WORN = {"colour": 0.1, "hue": 0.01, "noise": 0.1}
"""Less jitter for the miniature, where colours are who somebody is; noise, which its encoders were trained with."""
RECIPES = {
    "personalvideo": PAPER,
    "personalvideo-miniature": replace(
        PAPER,
        backbone="miniature",
        options={"world": "miniature", "vectors": 4, "init": "average", "rank": 16, "pool": 50, "place": 0.1} | WORN,
        stages=(
            replace(PAPER.stages[0], train=Train(steps=300, batch=4, learning_rate=1e-2)),
            replace(
                PAPER.stages[1],
                backbone="miniature-lcm",
                train=Train(steps=120, batch=1, learning_rate=5e-4, checkpoint_every=40),
            ),
        ),
        data=replace(PAPER.data, size=64, masks=True),
        source="the paper's stages at the miniature's size; chosen on five subjects that nothing was trained on",
    ),
}
COMPONENTS: dict[str, dict[str, Any]] = {
    "T2I": {"options": {"tuning": "still", "simulated": 0}},
    "T2I + prompts": {"options": {"tuning": "still"}},
    "T2V": {"options": {"simulated": 0}},
    "T2V + prompts": {"options": {}},
    "all steps": {"options": {"share": 1.0}},
    "half of the steps": {"options": {"share": 0.5}},
    "cross-attention": {"options": {"layers": "cross"}},
    "self- and cross-attention": {"options": {"layers": "both"}},
}
"""The rows of Tables 2, 3a and 3b; the paper's choice, ``T2V + prompts``, stands in all three."""
