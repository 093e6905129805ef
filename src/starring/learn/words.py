"""Words that were learned before, in another run, instead of a first stage that finds new ones.

So what one paper does after its words are learned works over another paper's words: BridgeIV's customization and
propagation over VCD's tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe, from_json
from starring.errors import StarringError
from starring.methods import build, find
from starring.methods.base import require_family
from starring.methods.words import WORDS_STAGE, Worded
from starring.run import Run

ROWS = "rows"
"""The words' key in the state dict of every :class:`Worded`."""


def taken_over(
    recipe: Recipe, words: Run, backbone: Backbone, class_word: str = ""
) -> tuple[Recipe, dict[str, Tensor]]:
    """A recipe that goes on from the words of another run, and those words.

    The stage that learns words is left out, and so is every other that would have nothing to learn. There are as many
    words as the run has, and the noise prior is that run's where the recipe does not say.

    Args:
        recipe: of a method with learned words.
        words: a finished run of such a method.
        backbone: of the family that the words were learned on.
        class_word: the subject's, which some options need and the recipe may leave to the subject.

    Returns:
        The recipe, and what the method's state dict begins with.

    Raises:
        StarringError: if one of the two methods learns no words, or the words do not fit the backbone.
    """
    record = words.record
    for name, who in ((recipe.method, "bridgeiv"), (record.recipe.method, "vcd")):
        if not issubclass(find(name), Worded):
            raise StarringError(f"'{name}' learns no words, so there are none to take over. {who} does.")
    require_family(record.recipe.method, record.family, backbone)
    rows = words.load_weights()[ROWS]
    theirs = from_json(find(record.recipe.method).config_type, record.recipe.options)
    options = {"correlation": theirs.correlation, **recipe.options, "vectors": len(rows)}
    options.pop("candidates", None)  # they were chosen from before
    method = build(recipe.method, backbone, {"class_word": class_word, **options})
    width = method.get_parameter(ROWS).shape[1]
    if rows.shape[1] != width:
        raise StarringError(
            f"The words of {words.folder} have width {rows.shape[1]}, but the text encoder of {backbone.name} reads"
            f" width {width}. Take words that were learned on it."
        )
    stages = tuple(s for s in recipe.stages if s.name != WORDS_STAGE and any(True for _ in method.learns(s.name)))
    digest = hashlib.sha256(words.weights.read_bytes()).hexdigest()
    source = f"{recipe.source}; words of {words.name}, SHA-256 {digest}"
    return replace(recipe, options=options, stages=stages, source=source), {ROWS: rows}
