"""Training the miniature's identity encoders: two networks that tell subjects apart, alike in nothing but their task.

One is a reward (a small IResNet, ArcFace loss over a fixed list of subjects), the other judges what the reward has made
(a ConvNeXt, contrast between two shots of a subject against others of its class).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ConvNextModel

from starring.miniature import export, models, world
from starring.miniature.corpus import LABELS, SHOTS_PER_SUBJECT, VIEWS, Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.pretrain import pixels, worn
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.perception.align import around, crop_square
from starring.perception.identity import IdentityEncoder

REWARD = Plan(muon=True, steps=500, lr=2e-3, batch=96, ema=0.998, weight_decay=0.05, decay=0.5)
SCORE = Plan(muon=True, steps=280, lr=1.5e-3, batch=96, ema=0.998, weight_decay=0.05, decay=0.5)
LISTED = 3000
"""Subjects that the ArcFace loss tells apart."""
SCALE, MARGIN = 24.0, 0.3
"""Of the ArcFace loss; the margin grows from 0 over the first half of the steps (``SCALE`` fits the small list)."""


class Shots:
    """Crops of subjects that stand alone and near enough, from the rendered corpus, by subject."""

    def __init__(self, build: Path) -> None:
        self.shelf = Shelf(build / "corpus", "stills", ("images", "masks", "labels"))
        labels = self.shelf.get("labels", np.arange(len(self.shelf))).astype(np.int64)
        seen = (labels[:, LABELS.index("actors")] == 1) & (labels[:, LABELS.index("view")] != VIEWS.index("far"))
        groups = seen.reshape(-1, SHOTS_PER_SUBJECT)
        subjects = np.flatnonzero(groups.sum(1) >= 2)
        self.rows = [SHOTS_PER_SUBJECT * s + np.flatnonzero(groups[s]) for s in subjects]
        """Rows of each subject's shots."""
        self.kinds = labels[SHOTS_PER_SUBJECT * subjects, LABELS.index("kind")]
        """Class of each subject."""

    def crops(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Crops ``b 3 48 48`` in [-1, 1], placed a little at random, mirrored and worn at random."""
        images, masks = pixels(self.shelf.get("images", rows)), self.shelf.get("masks", rows)
        squares = [around(torch.from_numpy((mask.astype(np.uint8) & 1) > 0)) for mask in masks]
        places = torch.stack(squares) if squares else torch.zeros(0, 3)
        jitter = torch.from_numpy(rng.uniform(-1, 1, (len(rows), 3)).astype(np.float32))
        places[:, :2] += 0.06 * jitter[:, :2] * places[:, 2:]
        places[:, 2] *= 1 + 0.15 * jitter[:, 2]
        crops = crop_square(images, places, models.CROP)
        flipped = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None, None]
        crops = worn(torch.where(flipped, crops.flip(-1), crops), rng)
        return crops.contiguous(memory_format=torch.channels_last)


def reward_trainer(build: Path) -> Trainer:
    """The reward's network, and one direction for each of the listed subjects, which is thrown away."""
    centres = nn.Linear(models.IDENTITY, LISTED, bias=False)
    nn.init.normal_(centres.weight, std=0.05)
    return Trainer(build / "identity-reward", {"identity": models.identity_reward(), "embed": centres}, REWARD)


def reward_loss(build: Path, trainer: Trainer) -> Loss:
    """Additive angular margin (ArcFace, arXiv 1801.07698, eq. 3)."""
    shots = Shots(build)
    net, centres = trainer.modules["identity"], trainer.modules["embed"]
    listed = min(LISTED, len(shots.rows))

    def loss(rng: np.random.Generator, done: float) -> Mapping[str, Tensor]:
        chosen = rng.integers(listed, size=trainer.plan.batch)
        rows = np.array([rng.choice(shots.rows[i]) for i in chosen])
        z = F.normalize(net(shots.crops(rows, rng)), dim=-1)
        cosines = F.linear(z, F.normalize(centres.weight, dim=-1))  # pyright: ignore[reportArgumentType]
        target = torch.from_numpy(chosen)
        value = arcface(cosines, target, SCALE, MARGIN * min(1.0, 2 * done))
        return {"loss": value, "hit": (cosines.argmax(1) == target).float().mean()}

    return loss


def arcface(cosines: Tensor, target: Tensor, scale: float, margin: float) -> Tensor:
    """Cross entropy after the angle to the own centre was widened (arXiv 1801.07698, eq. 3).

    Args:
        cosines: ``b n`` of embeddings with all centres.
        target: ``b``, the own centre's number.
        scale: of the logits.
        margin: in radians.
    """
    own = cosines.gather(1, target[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    # Past pi the cosine would fall again with the angle.
    widened = torch.cos((own.arccos() + margin).clamp_max(torch.pi))
    return F.cross_entropy(scale * cosines.scatter(1, target[:, None], widened), target)


def score_trainer(build: Path) -> Trainer:
    """The judge's network."""
    return Trainer(build / "identity-score", {"identity": models.identity_score()}, SCORE)


def score_loss(build: Path, trainer: Trainer) -> Loss:
    """InfoNCE between two shots of a subject; half of each batch is of one class, where only identity tells apart."""
    shots = Shots(build)
    net = trainer.modules["identity"]
    members = [np.flatnonzero(shots.kinds == kind) for kind in np.unique(shots.kinds)]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        half = trainer.plan.batch // 2
        kind = members[rng.integers(len(members))]
        alike = rng.choice(kind, min(half, len(kind)), replace=False)
        others = rng.choice(np.setdiff1d(np.arange(len(shots.rows)), alike), trainer.plan.batch - len(alike), False)
        pairs = np.array([rng.choice(shots.rows[i], 2, replace=False) for i in (*alike, *others)])
        z = F.normalize(net(shots.crops(pairs.T.reshape(-1), rng)).pooler_output, dim=-1)
        a, b = z.chunk(2)
        logits, target = a @ b.T / 0.1, torch.arange(len(a))
        value = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": value, "hit": (logits.argmax(1) == target).float().mean()}

    return loss


def write(build: Path, weights: Path = export.WEIGHTS) -> None:
    """Write both averaged: the reward with the names of published IResNets, the judge as transformers saves it."""
    reward, score = reward_trainer(build), score_trainer(build)
    folder = weights / "identity" / "reward"
    folder.mkdir(parents=True, exist_ok=True)
    net = reward.averaged()["identity"]
    halves = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(halves, folder / "model.partial")
    (folder / "model.partial").replace(folder / "model.safetensors")
    judge = score.averaged()["identity"]
    assert isinstance(judge, ConvNextModel)
    export.put(weights / "identity" / "score", judge)


def verification(encoder: IdentityEncoder, people: bool, subjects: int = 60, shots: int = 3) -> float:
    """AUC of one subject's shots against those of others of the same class, subjects that no training has seen.

    Args:
        encoder: sees the square around the true mask.
        people: persons only, or all other classes only.
        subjects: how many.
        shots: of each, in different scenes and poses, near enough to be recognised.
    """
    rng = np.random.default_rng(29)
    kinds = [kind for kind in CLASSES if (kind in PEOPLE) == people]
    crops: list[Tensor] = []
    for i in range(subjects):
        # Seeds that end in 0 are kept from all training.
        who = world.identity(10 * int(rng.integers(1 << 30)), kinds[i % len(kinds)])
        while len(crops) < shots * (i + 1):
            shot = world.random_shot(rng, who)
            if len(shot.actors) == 1 and shot.view != "far":
                frame = world.render(shot)
                picture = (pixels(frame.image[None]) + 1) / 2
                crops.append(crop_square(picture, around(torch.from_numpy(frame.mask))[None], models.CROP))
    with torch.no_grad():
        z = encoder.images(torch.cat(crops))
    likeness = (z @ z.T).numpy()
    who, kind = np.arange(subjects).repeat(shots), (np.arange(subjects) % len(kinds)).repeat(shots)
    upper = np.triu(np.ones_like(likeness, dtype=bool), 1)
    same = likeness[upper & (who[:, None] == who[None])]
    other = likeness[upper & (who[:, None] != who[None]) & (kind[:, None] == kind[None])]
    return float((same[:, None] > other[None]).mean())
