"""Where learned words start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.methods import build


@pytest.mark.parametrize("name", ["personalvideo", "bridgeiv"])
def test_words_start_from_the_class_word_or_from_the_average_of_the_vocabulary(tiny: Backbone, name: str) -> None:
    options = {"class_word": "dog", "vectors": 3}
    encoder: Any = tiny.text_encoder
    table = encoder.get_input_embeddings().weight.detach()
    average: Any = build(name, tiny, {**options, "init": "average"}).get_parameter("rows")
    torch.testing.assert_close(average.detach(), torch.stack([table.sum(0) / len(table)] * 3))
    (piece,) = tiny.tokenizer("dog", add_special_tokens=False).input_ids
    named: Any = build(name, tiny, options).get_parameter("rows")
    torch.testing.assert_close(named.detach(), torch.stack([table[piece]] * 3))
    with pytest.raises(StarringError, match=r"rare.*average, class"):
        build(name, tiny, {**options, "init": "rare"})
