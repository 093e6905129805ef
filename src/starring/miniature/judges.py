"""Independent judges of generated material: small classifiers trained on renders, apart from everything they judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from starring.miniature.colours import GROUPS
from starring.miniature.corpus import LABELS, Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.pretrain import pixels, worn
from starring.miniature.scenes import SCENES
from starring.miniature.shapes import CLASSES
from starring.miniature.world import FRAMES, MOTIONS

IMAGE = Plan(muon=True, steps=2000, lr=2e-3, batch=64, ema=0.998, weight_decay=0.02, decay=0.5)
MOTION = Plan(muon=True, steps=220, lr=2e-3, batch=32, ema=0.99, weight_decay=0.05, decay=0.5)
HEADS = {"kind": tuple(CLASSES), "colour": tuple(GROUPS), "scene": tuple(SCENES)}


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ImageJudge(nn.Module):
    """Class, colour family of the body, and scene of a picture: b 3 64 64 in [-1, 1] to logits by name."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 96, 128)
        steps = zip((3, *widths), widths, strict=False)
        self.body = nn.Sequential(*[nn.Sequential(_block(i, o, 2), _block(o, o, 1)) for i, o in steps])
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(names)) for name, names in HEADS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of each head."""
        features = self.body(images)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


class MotionJudge(nn.Module):
    """Motion of a film: b 3 f 64 64 in [-1, 1] to logits, from coarse frames read all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(3 * FRAMES, 64, 1), _block(64, 64, 2), _block(64, 96, 2), _block(96, 96, 2))
        self.head = nn.Linear(96 * 16, len(MOTIONS))

    def forward(self, films: Tensor) -> Tensor:
        """Logits of the motions."""
        coarse = F.avg_pool2d(films.transpose(1, 2).flatten(0, 1), 2)
        stack = coarse.reshape(len(films), -1, *coarse.shape[-2:])
        stack = stack - stack.unflatten(1, (FRAMES, 3)).mean(1).repeat(1, FRAMES, 1, 1)
        return self.head(self.body(stack).flatten(1))


def image_trainer(build: Path) -> Trainer:
    """Trainer of the judge of pictures."""
    return Trainer(build / "judge-image", {"judge": ImageJudge()}, IMAGE)


def image_loss(build: Path, trainer: Trainer) -> Loss:
    """Cross entropy of each head on single-subject stills."""
    shelf = Shelf(build / "corpus", "stills", ("images", "labels"))
    net = trainer.modules["judge"]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=2 * trainer.plan.batch)
        labels = shelf.get("labels", rows).astype(np.int64)
        alone = labels[:, LABELS.index("actors")] == 1
        rows, labels = rows[alone][: trainer.plan.batch], labels[alone][: trainer.plan.batch]
        out = net(worn(pixels(shelf.get("images", rows)), rng))
        values: dict[str, Tensor] = {}
        total = torch.zeros(())
        for name, logits in out.items():
            target = torch.from_numpy(labels[:, LABELS.index(name)])
            total = total + F.cross_entropy(logits, target)
            values[name] = (logits.argmax(1) == target).float().mean()
        return {"loss": total, **values}

    return loss


def motion_trainer(build: Path) -> Trainer:
    """Trainer of the judge of motion."""
    return Trainer(build / "judge-motion", {"judge": MotionJudge()}, MOTION)


def motion_loss(build: Path, trainer: Trainer) -> Loss:
    """Cross entropy on films."""
    shelf = Shelf(build / "corpus", "films", ("images", "labels"))
    net = trainer.modules["judge"]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        films = pixels(shelf.get("images", rows))
        films = worn(films.flatten(0, 1), rng).reshape(films.shape).transpose(1, 2)
        target = torch.from_numpy(shelf.get("labels", rows)[:, LABELS.index("motion")].astype(np.int64))
        logits = net(films)
        return {"loss": F.cross_entropy(logits, target), "motion": (logits.argmax(1) == target).float().mean()}

    return loss


def load(folder: Path) -> tuple[ImageJudge, MotionJudge]:
    """The shipped judges, in evaluation mode."""
    image, motion = ImageJudge(), MotionJudge()
    image.load_state_dict({k: v.float() for k, v in load_file(folder / "image.safetensors").items()}, strict=False)
    motion.load_state_dict({k: v.float() for k, v in load_file(folder / "motion.safetensors").items()}, strict=False)
    return image.eval(), motion.eval()
