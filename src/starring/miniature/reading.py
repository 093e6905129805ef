"""Teaching the second miniature's text tower to read, before its transformer learns to draw.

It repeats what the first miniature's text tower says of the same words, which knows from thousands of pictures what
they look like. A transformer that learns from nothing together with its text tower draws long before it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from starring.miniature import dit, words
from starring.miniature.cinema import DROP
from starring.miniature.corpus import CAPTIONS, Shelf
from starring.miniature.fit import Loss, Plan, Trainer

PLAN = Plan(steps=600, lr=3e-3, batch=96, warmup=50, ema=0.99, weight_decay=0.0, decay=0.5, muon=True)
CAPITALS = 0.15
"""Share of captions that begin with a capital letter, as people write."""


def texts(shelf: Shelf, rows: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """One caption of each row, some of them left out, some with a capital."""
    picked = shelf.get("tokens", rows).astype(np.int64)[np.arange(len(rows)), rng.integers(CAPTIONS, size=len(rows))]
    found = words.tokenizer().batch_decode(picked.tolist(), skip_special_tokens=True)
    found = [text.strip().capitalize() if rng.random() < CAPITALS else text.strip() for text in found]
    return ["" if rng.random() < DROP else text for text in found]


def trainer(build: Path) -> Trainer:
    """Of the text tower alone."""
    return Trainer(build / "reading", {"text_encoder": dit.text_encoder()}, PLAN)


def loss(build: Path, trainer: Trainer, teacher: CLIPTextModel) -> Loss:
    """Squared error of the embeddings, token by token, in units of the teacher's variance.

    Words of the world are one token each for both; the teacher begins with one that says so, which the pupil has not.
    The places after a caption's end have meanings too, since no mask hides them from either network.
    """
    shelf = Shelf(build / "corpus", "stills", ("tokens",))
    pupil = trainer.modules["text_encoder"]

    def said(batch: list[str]) -> Tensor:
        with torch.no_grad():
            hidden = teacher(input_ids=torch.tensor(words.encode(batch))).last_hidden_state.float()
        return torch.cat([hidden[:, 1:], hidden[:, -1:]], 1)

    some = said(texts(shelf, np.arange(64) % len(shelf), np.random.default_rng(0)))
    mean, spread = some.mean((0, 1)), some.std()

    def measured(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        batch = texts(shelf, rng.integers(len(shelf), size=trainer.plan.batch), rng)
        hidden = pupil(input_ids=torch.tensor(dit.encode(batch))).last_hidden_state
        return {"loss": F.mse_loss(hidden.float(), (said(batch) - mean) / spread)}

    return measured
