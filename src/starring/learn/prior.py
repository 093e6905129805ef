"""Pictures of the class that the backbone makes itself, before it learns a subject of that class.

Prior preservation (DreamBooth, arXiv 2208.12242, section 3.2): while the network learns one dog, it also goes on
learning what it drew when it was asked for any dog, so that other dogs, and other pictures, stay what they were.
"""

from __future__ import annotations

import hashlib
import json

import torch
from accelerate import Accelerator

from starring.backbones.base import Backbone
from starring.config import Recipe, Sample, to_json
from starring.data.augment import seeded
from starring.data.files import write_image
from starring.data.latents import LatentBank
from starring.data.prompts import plain
from starring.data.subject import Subject
from starring.data.video import contact_sheet
from starring.learn.progress import OnProgress, Progress
from starring.methods import Plain, PlainConfig, Request
from starring.run import Run

CHUNK = 8
"""Pictures that are made at once."""


def class_images(
    run: Run, subject: Subject, backbone: Backbone, recipe: Recipe, accelerator: Accelerator, tell: OnProgress
) -> LatentBank | None:
    """Latents of as many pictures of the class as the stages use, from the run's cache as far as they are there.

    Picture i depends on the first stage's seed and on i alone. They stay latents: what the VAE would lose is not
    learned. The first of them are shown in the run's previews.

    Returns:
        A bank whose captions name the class and not the subject, or ``None`` if no stage asks for one.
    """
    uses = [(s.class_images, s.train.steps * s.train.batch * s.train.accumulate) for s in recipe.stages]
    count = max(min(wanted, used * accelerator.num_processes) for wanted, used in uses)
    if count == 0:
        return None
    size, seed = recipe.data.size or backbone.sample.height, recipe.stages[0].train.seed
    sample, word = recipe.sample or backbone.sample, subject.class_word
    prompt = plain(recipe.data.template.replace("{class_word}", word), word)
    about = [prompt, size, seed, sample.steps, sample.guidance, sample.negative, backbone.source, str(backbone.dtype)]
    key = hashlib.sha256(json.dumps(to_json(about)).encode()).hexdigest()
    path = run.cache / "class.safetensors"
    with accelerator.main_process_first():
        bank = LatentBank.load(path, key)
        while bank is None or len(bank) < count:
            bank = _grown(bank, _pictures(backbone, sample, prompt, size, seed, len(bank) if bank else 0), prompt, seed)
            run.cache.mkdir(exist_ok=True)
            bank.save(path, key)
            tell(Progress(phase="class", step=min(len(bank), count), total=count, run=run.folder))
        sheet = run.previews / "class.png"
        if not sheet.is_file():
            with torch.no_grad():
                shown = backbone.decode_video(bank.mean[:CHUNK].transpose(0, 2).to(backbone.device))
            run.previews.mkdir(exist_ok=True)
            write_image(sheet, contact_sheet(shown))
            tell(Progress(phase="class", step=count, total=count, preview=sheet, run=run.folder))
    return bank


def _pictures(backbone: Backbone, sample: Sample, prompt: str, size: int, seed: int, first: int) -> torch.Tensor:
    """Pictures ``first`` and on, ``v c 1 h w``: frames of a film in which every frame is a picture of its own."""
    c, _, h, w = backbone.latent_shape(1, size, size)
    noise = [torch.randn(1, c, 1, h, w, generator=seeded(seed, "class", first + i)) for i in range(CHUNK)]
    request = Request(
        prompt=prompt, negative=sample.negative, noise=torch.cat(noise, dim=2),
        sample=Sample(frames=CHUNK, height=size, width=size, steps=sample.steps, guidance=sample.guidance),
        generator=seeded(seed, "class steps", first),
    )  # fmt: skip
    with backbone.still():
        return Plain(backbone, PlainConfig()).generate(backbone, request).transpose(0, 2).float().cpu()


def _grown(bank: LatentBank | None, latents: torch.Tensor, prompt: str, seed: int) -> LatentBank:
    mean = latents if bank is None else torch.cat([bank.mean, latents])
    whole = torch.ones_like(mean[:, :1])
    return LatentBank(
        mean=mean, std=torch.zeros_like(mean), masks=whole, extents=whole, captions=[prompt] * len(mean), seed=seed
    )
