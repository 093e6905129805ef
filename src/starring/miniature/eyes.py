"""Training the miniature's frozen eyes: CLIP, the self-supervised ViT, and the text-prompted segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from starring.miniature import models
from starring.miniature.corpus import CAPTIONS, FACE, FIRST, LABELS, SHOTS_PER_SUBJECT, Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.pretrain import pixels, worn
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.miniature.words import encode

CLIP = Plan(muon=True, steps=1700, lr=1.5e-3, batch=128, ema=0.998, weight_decay=0.05, decay=0.4)
DINO = Plan(muon=True, steps=540, lr=1.2e-3, batch=128, ema=0.998, weight_decay=0.05, decay=0.4)
SEGMENTER = Plan(muon=True, steps=4000, lr=1e-3, batch=32, ema=0.998, weight_decay=0.02, decay=0.4)

ASKED = (*CLASSES, "subject", "face", "person")
"""Words that the segmenter learns to find."""
_PEOPLE = [tuple(CLASSES).index(kind) for kind in PEOPLE]


def clip_trainer(build: Path) -> Trainer:
    """Contrastive training of captions against pictures."""
    return Trainer(build / "clip", {"clip": models.clip()}, CLIP)


def clip_loss(build: Path, trainer: Trainer) -> Loss:
    """Symmetric InfoNCE; the most detailed of an item's captions half of the time."""
    shelf = Shelf(build / "corpus", "stills", ("images", "tokens"))
    net = trainer.modules["clip"]
    end = models.tokenizer().eos_token_id

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        tokens = shelf.get("tokens", rows).astype(np.int64)
        lengths = (tokens != end).sum(-1)
        chosen = np.where(rng.random(len(rows)) < 0.6, lengths.argmax(1), rng.integers(CAPTIONS, size=len(rows)))
        ids = torch.from_numpy(tokens[np.arange(len(rows)), chosen])
        out = net(input_ids=ids, pixel_values=pixels(shelf.get("images", rows)))
        target = torch.arange(len(rows))
        value = (F.cross_entropy(out.logits_per_image, target) + F.cross_entropy(out.logits_per_text, target)) / 2
        hit = (out.logits_per_text.argmax(1) == target).float().mean()
        return {"loss": value, "recall": hit}

    return loss


def dino_trainer(build: Path) -> Trainer:
    """Instance discrimination: two shots of one subject are the two views. The projection head is thrown away."""
    head = nn.Sequential(nn.Linear(96, 192), nn.GELU(), nn.Linear(192, 96))
    return Trainer(build / "dino", {"dino": models.dino(), "head": head}, DINO)


def dino_loss(build: Path, trainer: Trainer) -> Loss:
    """InfoNCE between two shots of a subject against all others of the batch, on the class token and on its head."""
    shelf = Shelf(build / "corpus", "stills", ("images", "labels"))
    net, head = trainer.modules["dino"], trainer.modules["head"]
    groups = len(shelf) // SHOTS_PER_SUBJECT

    def info(z: Tensor) -> Tensor:
        a, b = F.normalize(z, dim=-1).chunk(2)
        logits = a @ b.T / 0.1
        target = torch.arange(len(a))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        first = rng.choice(groups, trainer.plan.batch, replace=False) * SHOTS_PER_SUBJECT
        pair = np.stack([rng.permutation(SHOTS_PER_SUBJECT)[:2] for _ in first])
        images = shelf.get("images", np.concatenate([first + pair[:, 0], first + pair[:, 1]]))
        token = net(pixel_values=pixels(images)).last_hidden_state[:, 0]
        # Standardised over the batch, the head feels differences that a constant still hides in the token itself.
        spread = head(token)
        spread = (spread - spread.mean(0)) / (spread.std(0) + 1e-4)
        own, projected = info(token), info(spread)
        return {"loss": own + projected, "token": own, "head": projected}

    return loss


def segmenter_trainer(build: Path) -> Trainer:
    """Masks from words, at the frame's own size. The heads that name patches and words are thrown away."""
    net = models.segmenter()
    config: Any = net.config  # transformers leaves the types of its parts open
    patch = nn.Linear(config.vision_config.hidden_size, 1 + len(CLASSES))
    head = nn.ModuleDict({"patch": patch, "word": nn.Linear(config.projection_dim, len(ASKED))})
    return Trainer(build / "segmenter", {"segmenter": net, "head": head}, SEGMENTER)


def segmenter_loss(build: Path, trainer: Trainer) -> Loss:
    """Cross entropy and overlap, for a subject's class, ``face``, ``subject``, or a class that is not there.

    Each patch of the image tower has to name the class that it shows as well, and the text tower the word that it read:
    without, answers to different words stay alike (cosine 0.9), and the decoder takes whatever stands out.
    """
    shelf = Shelf(build / "corpus", "stills", ("images", "masks", "labels"))
    net, head = trainer.modules["segmenter"], cast("nn.ModuleDict", trainer.modules["head"])
    prompts = np.array(encode([f"a {name}" for name in ASKED] + list(ASKED))).reshape(2, len(ASKED), -1)

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = _chosen(shelf, trainer.plan.batch, rng)
        labels, masks = shelf.get("labels", rows).astype(np.int64), shelf.get("masks", rows)
        asked, wanted = _ask(labels, masks, rng)
        ids = torch.from_numpy(prompts[rng.integers(2, size=len(rows)), asked])
        images = pixels(shelf.get("images", rows))
        if rng.random() < 0.4:  # what is generated is less sharp than what is rendered
            images = worn(images, rng)
        logits, patches, said = answered(net, ids, images)
        target = torch.from_numpy(wanted)
        cross = F.binary_cross_entropy_with_logits(logits, target)
        p = logits.sigmoid()
        overlap = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
        shown = torch.from_numpy(_shown(labels, masks, round(patches.shape[1] ** 0.5)))
        naming = F.cross_entropy(head["patch"](patches).flatten(0, 1).float(), shown.flatten())
        reading = F.cross_entropy(head["word"](said).float(), torch.from_numpy(asked))
        total = cross + overlap.mean() + naming + reading
        return {"loss": total, "overlap": overlap.mean(), "naming": naming, "reading": reading}

    return loss


def answered(net: nn.Module, ids: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CLIPSeg's forward, with a gradient through both towers: its class holds them frozen, for they were CLIP's.

    Args:
        net: a ``CLIPSegForImageSegmentation``.
        ids: what is asked, ``b n``.
        images: ``b 3 H W``.

    Returns:
        Logits ``b H W``, the image tower's patches ``b p d``, and the text tower's answer ``b e``.
    """
    model: Any = net
    seen = model.clip.vision_model(pixel_values=images, output_hidden_states=True)
    said = model.clip.get_text_features(ids).pooler_output
    made = model.decoder([seen.hidden_states[layer + 1] for layer in model.extract_layers], said)
    return made.logits, seen.last_hidden_state[:, 1:], said


def _shown(labels: NDArray[np.int64], masks: NDArray[np.generic], side: int) -> NDArray[np.int64]:
    """The class in the corner of each of ``side x side`` patches, counted from 1; 0 is background."""
    step = masks.shape[1] // side
    bits = masks[:, ::step, ::step].astype(np.uint8)
    first, second = (1 + labels[:, LABELS.index(name)][:, None, None] for name in ("kind", "second"))
    return np.where(bits & FIRST, first, np.where(bits & 1, second, 0))


def _chosen(shelf: Shelf, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a step: half show two subjects, each picture twice, two in seven a person alone.

    Faces are small, only people have them, and they are learned last.
    """
    rows = rng.integers(len(shelf), size=16 * batch)
    labels = shelf.get("labels", rows).astype(np.int64)
    alone = labels[:, LABELS.index("actors")] == 1
    person = np.isin(labels[:, LABELS.index("kind")], _PEOPLE)
    pairs, people = batch // 2, batch * 2 // 7
    both = np.repeat(rows[~alone][: pairs // 2], 2)
    chosen = [both, rows[alone & person][:people], rows[alone & ~person]]
    return np.concatenate(chosen)[:batch]


def _ask(
    labels: NDArray[np.int64], masks: NDArray[np.generic], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What is asked of each picture (an index of :data:`ASKED`), and the mask that answers it."""
    bits = masks.astype(np.uint8)
    kinds = labels[:, [LABELS.index("kind"), LABELS.index("second")]]
    asked = kinds[np.arange(len(kinds)), rng.integers(2, size=len(kinds))]
    wanted = np.empty(bits.shape, np.float32)
    for i, both in enumerate(kinds):
        draw, people, pair = rng.random(), np.isin(both, _PEOPLE), labels[i, LABELS.index("actors")] == 2
        subject, first = (bits[i] & 1) > 0, (bits[i] & FIRST) > 0
        if people.any() and draw < (0.25 if pair else 0.62):
            asked[i], wanted[i] = ASKED.index("face"), (bits[i] & FACE) > 0
            continue
        draw = rng.random()
        if people.any() and draw < 0.15:
            asked[i], counts = ASKED.index("person"), people
        elif draw < 0.2:
            asked[i], counts = ASKED.index("subject"), both >= 0
        elif draw < 0.35:
            absent = [n for n in range(len(CLASSES)) if n not in both and not (people.any() and n in _PEOPLE)]
            asked[i], counts = rng.choice(absent), both < 0
        elif draw < 0.42 and not people.any():
            asked[i], counts = ASKED.index("face"), both < 0
        else:
            counts = both == asked[i]
        wanted[i] = (subject & first & counts[0]) | (subject & ~first & counts[1])
    return asked, wanted
