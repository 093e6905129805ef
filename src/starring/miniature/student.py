"""Distilling the miniature's film model to four steps, as AnimateLCM (arXiv 2402.00769) does with AnimateDiff.

Latent consistency distillation (LCM, arXiv 2310.04378): from any point of the teacher's guided trajectory the student
tells its end at once. It is the teacher with a low-rank change of all linear maps and convolutions, in the spatial
layers and in the motion modules, so what ships is one small LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.func import functional_call
from transformers import CLIPTextModel

from starring.diffusion.parametrization import Parametrization
from starring.miniature import export, models
from starring.miniature.corpus import CAPTIONS, Shelf
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.words import encode

PLAN = Plan(steps=400, lr=2e-3, batch=2, warmup=10, ema=0.98, weight_decay=0.0, decay=0.4, save_every=180.0)
GRID = 50
"""Timesteps at which the student is asked, of 1000: those of ``LCMScheduler`` by default."""
SKIP = 60
"""Timesteps between two neighbours on the teacher's trajectory (k of LCM, section 4.3)."""
GUIDANCE = 3.0
"""Of the teacher; the student has it built in, so its own films take a single call of the network a step."""
RANK = 24
HUBER = 1e-3
"""c of the pseudo-Huber distance; far below the size of a latent, so nearly the absolute error."""
STEADY = 2.0
"""Weight of the same distance between changes from frame to frame: four steps draw fresh noise for each frame three
times, and what should stand still trembles by far less than what the distance of frames alone would notice."""
Answer = Callable[[Tensor, Tensor], Tensor]
"""From noisy latents ``b c f h w`` and timesteps ``b`` to the predicted noise."""


class Change(nn.Module):
    """A low-rank change of a layer's weight, in PEFT's shapes: ``down r i [k k]``, ``up o r [1 1]``; fresh, zero."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int = RANK) -> None:
        super().__init__()
        outer, inner, *window = layer.weight.shape
        rank = min(rank, outer, inner)
        self.down = nn.Parameter(torch.empty(rank, inner, *window))
        self.up = nn.Parameter(torch.zeros(outer, rank, *[1] * len(window)))
        nn.init.normal_(self.down, std=1 / rank)

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + torch.mm(self.up.flatten(1), self.down.flatten(1)).view_as(weight)


def places(film: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that change: every linear map and convolution of the blocks, by name."""
    blocks = ("down_blocks.", "mid_block.", "up_blocks.")
    return {
        name: module
        for name, module in film.named_modules()
        if name.startswith(blocks) and isinstance(module, nn.Linear | nn.Conv2d)
    }


def end(process: Parametrization, scheduler: LCMScheduler, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The consistency function ``c_skip(t) x + c_out(t) x_0`` (LCM, eq. 9): at ``t = 0`` it hands on ``x``."""
    at: Any = t.view(-1, *[1] * (x.ndim - 1))
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(at)
    return skip * x + out * process.x0(x, noise, t)


def errors(x0: Tensor, noise: Tensor, t: Tensor, teacher: Answer, student: Answer, scheduler: LCMScheduler) -> Tensor:
    """How far apart the student's answers at two neighbours of the teacher's trajectory are, ``b`` (LCM, eq. 13).

    The distance is that of frames and, beside it, that of their changes to the next frame.

    Args:
        x0: clean latents ``b c f h w``.
        noise: the noise that is added to them.
        t: timesteps ``b`` of the noisier neighbour.
        teacher: predicts noise, with guidance.
        student: predicts noise; its answer at the other neighbour is the target, without gradient.
        scheduler: has the noise levels and the boundary condition.
    """
    process = Parametrization.of(scheduler)
    before = (t - SKIP).clamp_min(0)
    x = process.noised(x0, noise, t)
    with torch.no_grad():
        guess = teacher(x, t)
        nearer = process.noised(process.x0(x, guess, t), guess, before)  # one step of DDIM
        target = end(process, scheduler, nearer, student(nearer, before), before)
    difference = end(process, scheduler, x, student(x, t), t) - target
    return huber(difference) + STEADY * huber(difference.diff(dim=2))


def huber(x: Tensor) -> Tensor:
    """The mean pseudo-Huber norm of ``b ...``: ``b``."""
    return ((x.square() + HUBER**2).sqrt() - HUBER).flatten(1).mean(1)


def parts(weights: Path = export.WEIGHTS) -> tuple[UNetMotionModel, CLIPTextModel]:
    """The shipped film network, which is the teacher, and its text tower, frozen."""
    unet, text = models.unet(), models.text_encoder()
    unet.load_state_dict(export.shipped("unet_alone", weights)["unet"])
    text.load_state_dict(export.shipped("text_encoder", weights)["text_encoder"])
    motion = models.motion_adapter()
    motion.load_state_dict(export.shipped("motion_adapter", weights)["motion_adapter"])
    made: Any = UNetMotionModel.from_unet2d(unet, motion)
    film: UNetMotionModel = made
    film.set_attn_processor(AttnProcessor())  # written out, as in training the teacher: faster backwards on CPUs
    return film.requires_grad_(False).eval(), text.requires_grad_(False).eval()


def trainer(build: Path, film: UNetMotionModel) -> Trainer:
    """Of the low-rank changes, by layer with ``__`` for dots."""
    torch.manual_seed(0)
    changes: Any = {name.replace(".", "__"): Change(layer) for name, layer in places(film).items()}
    return Trainer(build / "student", changes, PLAN)


def loss(build: Path, trainer: Trainer, film: UNetMotionModel, text: CLIPTextModel) -> Loss:
    """The distance between neighbours of the teacher's trajectories that begin at noised films of the corpus.

    It is computed in float32 also where the plan asks for bfloat16.
    """
    shelf = Shelf(build / "corpus", "films", ("latents", "tokens"))
    scheduler = models.student_scheduler()
    networks: Any = film, text
    for network in networks:
        network.to(trainer.device)
    layers = places(film)
    empty = torch.tensor([encode([""])[0]])

    def distance(rng: np.random.Generator) -> Mapping[str, Tensor]:
        rows = rng.integers(len(shelf), size=trainer.plan.batch)
        x0 = torch.from_numpy(shelf.get("latents", rows).astype(np.float32)).transpose(1, 2).to(trainer.device)
        said = shelf.get("tokens", rows).astype(np.int64)[np.arange(len(rows)), rng.integers(CAPTIONS, size=len(rows))]
        t = torch.from_numpy((rng.integers(GRID, size=len(rows)) + 1) * (1000 // GRID) - 1).to(trainer.device)
        b, frames = len(rows), x0.shape[2]
        tokens = torch.cat([empty.expand(b, -1), torch.from_numpy(said)]).to(trainer.device)
        with torch.no_grad():
            words = text(input_ids=tokens).last_hidden_state.repeat_interleave(frames, 0)
        changed = {
            f"{name}.weight": trainer.modules[name.replace(".", "__")](layer.weight) for name, layer in layers.items()
        }

        def teacher(x: Tensor, t: Tensor) -> Tensor:
            blank, asked = film(torch.cat([x, x]), torch.cat([t, t]), words).sample.float().chunk(2)
            return blank + GUIDANCE * (asked - blank)

        def student(x: Tensor, t: Tensor) -> Tensor:
            return functional_call(film, changed, (x, t, words[b * frames :])).sample.float()

        error = errors(x0, torch.randn_like(x0), t, teacher, student, scheduler)
        high = error.detach()[t > 600].mean().nan_to_num(0.0)
        return {"loss": error.mean(), "high": high}

    def measured(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        # At the noisy end clean latents are 25 times as far off as the predicted noise: in bfloat16 by 0.07, which is
        # as much as the whole distance between neighbours.
        with torch.autocast(trainer.device.type, enabled=False):
            return distance(rng)

    return measured


def lora(changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained changes in the names of diffusers and PEFT, for a file that goes onto the film network."""
    kinds = {"down": "lora_A", "up": "lora_B"}
    found: dict[str, Tensor] = {}
    for name, value in changes.items():
        layer, kind = name.rsplit(".", 1)
        found[f"unet.{layer.replace('__', '.')}.{kinds[kind]}.weight"] = value
    return found
