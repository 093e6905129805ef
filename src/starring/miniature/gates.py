"""How good the shipped weights are, measured on material that nothing was trained on, by judges of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data.edges import edges
from starring.diffusion.noise import white
from starring.diffusion.sampling import sample
from starring.layers.control import controlled
from starring.miniature import dit, identity, world
from starring.miniature.captions import MOTION_WORDS, SCENE_WORDS, caption
from starring.miniature.colours import COLOURS, GROUPS, group_of
from starring.miniature.judges import HEADS, ImageJudge, MotionJudge
from starring.miniature.pretrain import pixels
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.perception.encoders import CLIP, ImageEncoder
from starring.perception.identity import load_identity
from starring.perception.segment import Segmenter

TARGETS: dict[str, tuple[str, float]] = {
    "vae_psnr": (">=", 28.0),
    "vae_colour": ("<=", 2.0),
    "clip_recall": (">=", 0.8),
    "dino_auc": (">=", 0.9),
    "segmenter_subject": (">=", 0.85),
    "segmenter_face": (">=", 0.7),
    "segmenter_one_of_two": (">=", 0.7),
    "segmenter_absent": ("<=", 0.05),
    "image_kind": (">=", 0.9),
    "image_colour": (">=", 0.85),
    "image_scene": (">=", 0.95),
    "film_motion": (">=", 0.8),
    "film_kind": (">=", 0.85),
    "film_flicker": ("<=", 2.0),
    "identity_reward_people": (">=", 0.95),
    "identity_reward_others": (">=", 0.95),
    "identity_score_people": (">=", 0.95),
    "identity_score_others": (">=", 0.95),
}
"""What each measure should reach."""
DIT_TARGETS: dict[str, tuple[str, float]] = {
    "dit_vae_psnr": (">=", 25.0),
    "dit_film_motion": (">=", 0.75),
    "dit_film_kind": (">=", 0.85),
    "dit_film_flicker": ("<=", 2.0),
}
"""What the second film model should reach, by the same judges."""
STUDENT_TARGETS: dict[str, tuple[str, float]] = {
    "student_motion_loss": ("<=", 0.1),
    "student_kind_loss": ("<=", 0.1),
}
"""What the four-step model may lose of the shares that its teacher reaches in 25 steps, at the same prompts."""
CONTROL_TARGETS: dict[str, tuple[str, float]] = {"control_overlap": (">=", 0.6)}
"""How well films follow the edges of a clip: the subject's place in both, intersection over union."""
ALL_TARGETS = TARGETS | DIT_TARGETS | STUDENT_TARGETS | CONTROL_TARGETS


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt and what a judge should see."""

    text: str
    kind: str
    colour: str
    scene: str
    motion: str


def passed(name: str, value: float) -> bool:
    """Whether a measure reaches its target."""
    sign, target = ALL_TARGETS[name]
    return value >= target if sign == ">=" else value <= target


def held_out_identity(index: int, kind: str | None = None) -> world.Identity:
    """The ``index``-th subject that no training may see."""
    return world.identity(10 * (index + 7), kind)


def held_out_shots(count: int, seed: int = 3, single: bool = True) -> list[world.Shot]:
    """Random shots of held-out subjects, classes in turn."""
    rng = np.random.default_rng(seed)
    kinds = tuple(CLASSES)
    shots: list[world.Shot] = []
    while len(shots) < count:
        who = held_out_identity(int(rng.integers(1 << 30)), kinds[len(shots) % len(kinds)])
        shot = world.random_shot(rng, who)
        if not single or len(shot.actors) == 1:
            shots.append(shot)
    return shots


def prompts(count: int, seed: int = 5) -> list[Prompt]:
    """Prompts with one colour word, class, motion and scene each; classes and motions in turn."""
    rng = np.random.default_rng(seed)
    kinds, words = tuple(CLASSES), [c for c in COLOURS if c in GROUPS]
    found: list[Prompt] = []
    for i in range(count):
        kind, colour = kinds[i % len(kinds)], str(rng.choice(words))
        scene, motion = str(rng.choice(tuple(SCENE_WORDS))), world.MOTIONS[i % len(world.MOTIONS)]
        text = f"a {colour} {kind} {MOTION_WORDS[motion][0]} {SCENE_WORDS[scene][0]}"
        found.append(Prompt(text=text, kind=kind, colour=group_of(colour), scene=scene, motion=motion))
    return found


def vae(backbone: Backbone, count: int = 100) -> dict[str, float]:
    """PSNR of reconstructions in dB, and how far (0 to 255) the mean colour of the subject moves."""
    frames = [world.render(shot) for shot in held_out_shots(count)]
    x = pixels(np.stack([frame.image for frame in frames]))
    with torch.no_grad():
        y = backbone.decode_video(backbone.encode_video(x.unsqueeze(2)))[:, :, 0].clamp(-1, 1)
    psnr = -10 * ((y - x) / 2).square().mean((1, 2, 3)).log10()
    masks = torch.from_numpy(np.stack([frame.mask for frame in frames]))[:, None].float()
    means = [(v * masks).sum((2, 3)) / masks.sum((2, 3)).clamp_min(1) for v in (x, y)]
    return {"vae_psnr": float(psnr.mean()), "vae_colour": float((means[0] - means[1]).abs().mean() * 127.5)}


def clip(encoder: CLIP, count: int = 64, repeats: int = 4) -> dict[str, float]:
    """Text-to-image recall at 1 among ``count`` distinct captions."""
    rng = np.random.default_rng(11)
    hits: list[float] = []
    for repeat in range(repeats):
        shots: list[world.Shot] = []
        texts: list[str] = []
        for shot in held_out_shots(4 * count, seed=20 + repeat, single=False):
            text = max((caption(shot, rng) for _ in range(6)), key=lambda t: len(t.split()))
            if text not in texts and len(texts) < count:
                shots.append(shot)
                texts.append(text)
        images = _unit([world.render(shot).image for shot in shots])
        best = (encoder.texts(texts) @ encoder.images(images).T).argmax(1)
        hits.append(float((best == torch.arange(count)).float().mean()))
    return {"clip_recall": float(np.mean(hits))}


def dino(encoder: ImageEncoder, subjects: int = 60, shots: int = 3) -> dict[str, float]:
    """AUC of same subject against another subject of the same class, across scenes and poses."""
    rng = np.random.default_rng(13)
    kinds = tuple(CLASSES)
    images: list[NDArray[np.uint8]] = []
    for i in range(subjects):
        who = held_out_identity(int(rng.integers(1 << 30)), kinds[i % len(kinds)])
        made = 0
        while made < shots:
            shot = world.random_shot(rng, who)
            if len(shot.actors) == 1 and shot.view != "far":
                images.append(world.render(shot).image)
                made += 1
    z = encoder.images(_unit(images))
    similarity = (z @ z.T).numpy()
    who, kind = np.arange(subjects).repeat(shots), (np.arange(subjects) % len(kinds)).repeat(shots)
    upper = np.triu(np.ones_like(similarity, dtype=bool), 1)
    same = similarity[upper & (who[:, None] == who[None])]
    other = similarity[upper & (who[:, None] != who[None]) & (kind[:, None] == kind[None])]
    return {"dino_auc": float((same[:, None] > other[None]).mean())}


def segmenter(eye: Segmenter, count: int = 100) -> dict[str, float]:
    """Mean intersection over union of subjects (by class word), of faces, and of the one that is meant of two.

    ``segmenter_absent`` is the share of a subject that is taken when another class is asked for, or a face of what is
    no person.
    """
    from PIL import Image

    scores: dict[str, list[float]] = {"subject": [], "face": []}
    for shot in held_out_shots(count, seed=17):
        frame, kind = world.render(shot), shot.actors[0].identity.kind
        wanted = [("subject", kind, frame.mask)]
        if kind in PEOPLE and frame.face.sum() >= 12:
            wanted.append(("face", "face", frame.face))
        for name, word, truth in wanted:
            mask = eye.segment([Image.fromarray(frame.image)], word)[0].numpy() > 0.5
            scores[name].append(float((mask & truth).sum() / max((mask | truth).sum(), 1)))
    values = {f"segmenter_{name}": float(np.mean(values)) for name, values in scores.items()}
    return values | {"segmenter_one_of_two": _one_of_two(eye, count // 3), "segmenter_absent": _absent(eye, count // 3)}


def _one_of_two(eye: Segmenter, count: int) -> float:
    from PIL import Image

    rng, kinds, scores = np.random.default_rng(19), tuple(CLASSES), list[float]()
    for n, shot in enumerate(held_out_shots(count, seed=18)):
        kind = shot.actors[0].identity.kind
        other = held_out_identity(n, kinds[(kinds.index(kind) + 1 + n % (len(kinds) - 1)) % len(kinds)])
        frame = world.render(world.duet(shot, other, rng))
        for word, truth in ((kind, frame.first), (other.kind, frame.mask & ~frame.first)):
            mask = eye.segment([Image.fromarray(frame.image)], word)[0].numpy() > 0.5
            scores.append(float((mask & truth).sum() / max((mask | truth).sum(), 1)))
    return float(np.mean(scores))


def _absent(eye: Segmenter, count: int) -> float:
    from PIL import Image

    kinds, shares = tuple(CLASSES), list[float]()
    for n, shot in enumerate(held_out_shots(count, seed=16)):
        frame, kind = world.render(shot), shot.actors[0].identity.kind
        word = kinds[(kinds.index(kind) + 1 + n % (len(kinds) - 1)) % len(kinds)]
        for asked in (word, "face") if kind not in PEOPLE else (word,):
            if not {kind, asked} <= set(PEOPLE):  # of a woman, a man is not quite nothing
                mask = eye.segment([Image.fromarray(frame.image)], asked)[0].numpy() > 0.5
                shares.append(float((mask & frame.mask).sum() / frame.mask.sum()))
    return float(np.mean(shares))


def identities(subjects: int = 60) -> dict[str, float]:
    """Verification AUC of both identity encoders, on persons and on other subjects that no training has seen."""
    values: dict[str, float] = {}
    for role, name in (("reward", "miniature"), ("score", "miniature-score")):
        encoder = load_identity(name)
        for who, people in (("people", True), ("others", False)):
            values[f"identity_{role}_{who}"] = identity.verification(encoder, people, subjects)
    return values


def pictures(backbone: Backbone, judge: ImageJudge, count: int = 60, steps: int = 25) -> dict[str, float]:
    """Class, colour and scene of pictures made from prompts, motion modules off."""
    asked = prompts(count)
    with backbone.still():
        made = shoot(backbone, [p.text for p in asked], frames=1, steps=steps)
    with torch.no_grad():
        seen = judge(made[:, :, 0])
    return {f"image_{name}": _share(logits, name, asked) for name, logits in seen.items()}


def motion_pictures(
    backbone: Backbone, image: ImageJudge, motion: MotionJudge, count: int = 24, steps: int = 25
) -> dict[str, float]:
    """Motion, class and flicker of films made from prompts."""
    asked = prompts(count, seed=6)
    made = evenly(shoot(backbone, [p.text for p in asked], frames=backbone.sample.frames, steps=steps))
    real = _renders(asked)
    with torch.no_grad():
        moved = motion(made).argmax(1)
        kinds = image(made.transpose(1, 2).flatten(0, 1))["kind"].view(len(asked), world.FRAMES, -1).mean(1)
    target = torch.tensor([world.MOTIONS.index(p.motion) for p in asked])
    return {
        "film_motion": float((moved == target).float().mean()),
        "film_kind": _share(kinds, "kind", asked),
        "film_flicker": _flicker(made) / _flicker(real),
    }


def shoot(backbone: Backbone, texts: Sequence[str], frames: int, steps: int, batch: int = 4) -> Tensor:
    """Frames b 3 f H W in [-1, 1] from prompts, one seed for each by its place."""
    batch = batch if frames > 1 else 30
    made: list[Tensor] = []
    side = backbone.sample.height
    for start in range(0, len(texts), batch):
        some = list(texts[start : start + batch])
        shape = backbone.latent_shape(frames, side, side)
        generator = torch.Generator().manual_seed(1000 + start)
        noise = white((len(some), *shape), generator, backbone.device, torch.float32)
        with torch.no_grad():
            text = backbone.encode_text(some)
            if backbone.sample.guidance != 1:
                text = backbone.encode_text([""] * len(some)) + text
            predict: Callable[[Tensor, Tensor], Tensor] = lambda x, t, text=text: backbone.predict(x, t, text)  # noqa: E731
            latents = sample(
                predict, backbone.scheduler(), noise, steps, guidance=backbone.sample.guidance, generator=generator
            )  # fmt: skip
            made.append(backbone.decode_video(latents).clamp(-1, 1))
    return torch.cat(made)


def evenly(films: Tensor, frames: int = world.FRAMES) -> Tensor:
    """As many frames of b 3 f H W as the judge of motion reads, from the first to the last."""
    return films[:, :, torch.linspace(0, films.shape[2] - 1, frames).round().long()]


def video_vae(net: Any, count: int = 6) -> dict[str, float]:
    """PSNR of films reconstructed by an ``AutoencoderKLCogVideoX``, in dB, of subjects that no training has seen.

    Over all pixels, and over the subjects' alone, which is where what moves leaves ghosts.
    """
    found: dict[str, list[float]] = {"dit_vae_psnr": [], "dit_vae_subject_psnr": []}
    for i, p in enumerate(prompts(count, seed=8)):
        frames = world.film(world.stage(held_out_identity(i, p.kind), p.scene, p.motion, "normal", 1, i), dit.FRAMES)
        x = pixels(np.stack([frame.image for frame in frames])[None]).transpose(1, 2)
        with torch.no_grad():
            y = net.decode(net.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((y - x) / 2).square().mean((0, 1))
        inside = error[torch.from_numpy(np.stack([frame.mask for frame in frames]) > 0)]
        for name, part in zip(found, (error, inside), strict=True):
            found[name].append(float(-10 * part.mean().log10()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _share(logits: Tensor, name: str, asked: Sequence[Prompt]) -> float:
    target = torch.tensor([HEADS[name].index(getattr(p, name)) for p in asked])
    return float((logits.argmax(1) == target).float().mean())


def _renders(asked: Sequence[Prompt]) -> Tensor:
    films: list[NDArray[np.uint8]] = []
    for i, p in enumerate(asked):
        shot = world.stage(held_out_identity(i, p.kind), p.scene, p.motion, "normal", 1, i)
        films.append(np.stack([frame.image for frame in world.film(shot)]))
    return pixels(np.stack(films)).transpose(1, 2)


def _flicker(x: Tensor) -> float:
    """Mean absolute change of a pixel between neighbouring frames of b 3 f H W, motion included."""
    return float((x[:, :, 1:] - x[:, :, :-1]).abs().mean())


def _unit(images: list[NDArray[np.uint8]]) -> Tensor:
    """uint8 H W 3 to b 3 H W in [0, 1]."""
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def measure(images: int = 60, films: int = 24) -> dict[str, float]:
    """All measures of the shipped weights."""
    from starring.backbones.presets import load_backbone
    from starring.miniature.export import WEIGHTS
    from starring.miniature.judges import load
    from starring.perception.encoders import load_clip, load_dino
    from starring.perception.segment import load_segmenter

    backbone = load_backbone("miniature")
    image, motion = load(WEIGHTS / "judges")
    values = vae(backbone) | clip(load_clip("miniature")) | dino(load_dino("miniature"))
    values |= segmenter(load_segmenter("miniature"))
    values |= identities()
    values |= pictures(backbone, image, images)
    return values | motion_pictures(backbone, image, motion, films)


def measure_control(films: int = 12, steps: int = 12) -> dict[str, float]:
    """How far films from prompts follow the edges of rendered clips, and what they do without."""
    from diffusers import ControlNetModel

    from starring.backbones.presets import load_backbone
    from starring.miniature.export import WEIGHTS
    from starring.perception.segment import load_segmenter

    backbone, eye = load_backbone("miniature"), load_segmenter("miniature")
    network = ControlNetModel.from_pretrained(WEIGHTS / "control").eval()
    found: dict[str, list[float]] = {"control_overlap": [], "overlap_without_control": []}
    for i, asked in enumerate(prompts(films, seed=9)):
        shot = world.stage(held_out_identity(i, asked.kind), asked.scene, asked.motion, "normal", 1, i)
        frames = list(world.film(shot))
        seen = torch.from_numpy(edges(np.stack([frame.image for frame in frames]))).movedim(-1, 1).float() / 255
        true = np.stack([frame.mask for frame in frames])
        for name, around in (
            ("control_overlap", controlled(backbone.denoiser, network, seen)),
            ("overlap_without_control", nullcontext()),
        ):
            with around:
                film = shoot(backbone, [asked.text], world.FRAMES, steps)[0]
            pictures = [Image.fromarray(p) for p in ((film.movedim(0, -1) + 1) * 127.5).round().byte().numpy()]
            masks = np.stack([mask.numpy() > 0.5 for mask in eye.segment(pictures, asked.kind)])
            found[name].append(float((masks & true).sum() / max((masks | true).sum(), 1)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def measure_dit(films: int = 24) -> dict[str, float]:
    """All measures of the second film model's shipped weights; of its VAE alone, as long as nothing else ships."""
    from diffusers import AutoencoderKLCogVideoX

    from starring.backbones.presets import load_backbone
    from starring.miniature.export import WEIGHTS
    from starring.miniature.judges import load

    values = video_vae(AutoencoderKLCogVideoX.from_pretrained(WEIGHTS / "dit" / "vae").eval())
    if not (WEIGHTS / "dit" / "transformer").is_dir():
        return values
    made = motion_pictures(load_backbone("miniature-dit"), *load(WEIGHTS / "judges"), films)
    return values | {f"dit_{name}": value for name, value in made.items()}


def measure_student(films: int = 48) -> dict[str, float]:
    """The four-step model's shipped weights against its teacher, whose own shares are told beside."""
    from starring.backbones.presets import load_backbone
    from starring.miniature.export import WEIGHTS
    from starring.miniature.judges import load

    eyes, values = load(WEIGHTS / "judges"), dict[str, float]()
    for name, role in (("miniature-lcm", "student"), ("miniature", "teacher")):
        backbone = load_backbone(name)
        made = motion_pictures(backbone, *eyes, films, steps=backbone.sample.steps)
        values |= {key.replace("film", role): value for key, value in made.items()}
    lost = {f"student_{key}_loss": values[f"teacher_{key}"] - values[f"student_{key}"] for key in ("motion", "kind")}
    return values | lost
