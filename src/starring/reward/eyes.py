"""Eyes for a run: its photographs, and the networks that look at them and at its films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from starring.backbones.base import Backbone
from starring.config import Reward, from_json, to_json
from starring.data.masks import Segmenter
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.methods.base import Method
from starring.perception.encoders import CLIPS, ImageEncoder, load_clip
from starring.perception.segment import load_segmenter, suited
from starring.reward.film import Rewarded
from starring.reward.sight import Eyes
from starring.run import Photographs, Run

ENCODER = "clip-vit-large-patch14"
"""CLIP's image tower of the pixel reward; the paper does not say which."""
NAMED = {"segmenter", "encoder"}
"""What a sidecar says about a reward that can be given again."""


def eyes_for(
    subject: Subject,
    backbone: Backbone,
    segmenter: Segmenter | str | None = None,
    encoder: ImageEncoder | str | None = None,
) -> Eyes:
    """Eyes that look for a subject.

    Args:
        subject: its photographs and class word.
        backbone: networks that suit it are taken, and go where it is.
        segmenter: another one, or its name; see :func:`starring.perception.segment.load_segmenter`.
        encoder: another one, or the name of a CLIP; see :func:`starring.perception.encoders.load_clip`.

    Raises:
        StarringError: if the subject has no class word, or a network cannot be had.
    """
    if not subject.class_word:
        raise StarringError(f"A reward looks for {subject.name} by its class word, and it has none. Give it one.")
    names: dict[str, str] = {}
    if segmenter is None or isinstance(segmenter, str):
        names["segmenter"] = segmenter or suited(backbone.name)
        segmenter = cast("Segmenter", load_segmenter(names["segmenter"], device=backbone.device))
    if encoder is None or isinstance(encoder, str):
        names["encoder"] = encoder or (backbone.name if backbone.name in CLIPS else ENCODER)
        encoder = load_clip(names["encoder"], device=backbone.device)
    return Eyes(segmenter=segmenter, encoder=encoder, word=subject.class_word, photographs=subject.images, names=names)


def again(photographs: Photographs) -> Subject:
    """The photographs of a run, read again from where they were.

    Raises:
        StarringError: if none of them is there.
    """
    if photographs.folder is None or not Path(photographs.folder).exists():
        where = f"{photographs.folder}, which is gone" if photographs.folder else "memory only"
        raise StarringError(
            f"The film needs the photographs of {photographs.name}, which were in {where}. Put them back, or film"
            " without a reward, or beside another picture: --reference."
        )
    subject = Subject.from_folder(photographs.folder, photographs.class_word, photographs.name)
    known = set(photographs.digests.values())
    same = [i for i, digest in enumerate(subject.digests) if digest in known]
    if not same:
        raise StarringError(f"{photographs.folder} no longer holds any photograph that {photographs.name} was.")
    return subject.choose(same)


def options_of(reward: Reward | Mapping[str, Any] | bool | None, own: Reward | None = None) -> Reward | None:
    """What a person asks for as options: ``True`` means the defaults, ``False`` and ``None`` no reward.

    Args:
        reward: what is asked for; single options replace the defaults'.
        own: the defaults of a run's recipe, where it has any.

    Raises:
        StarringError: for an unknown option, with the nearest name.
    """
    if isinstance(reward, Reward) or not (reward or isinstance(reward, Mapping)):
        return reward or None
    return from_json(Reward, {**to_json(own or Reward()), **(reward if isinstance(reward, Mapping) else {})})


def rewarded(method: Method, origin: Mapping[str, Any], eyes: Eyes, options: Reward) -> tuple[Method, dict[str, Any]]:
    """A method whose films are optimised, and what a sidecar says about both."""
    ids = {"segmenter": eyes.segmenter.id, "encoder": eyes.encoder.id}
    return Rewarded(method, eyes, options), {
        **origin, "reward": {"options": to_json(options), **eyes.names, "eyes": ids}
    }  # fmt: skip


def rewarded_again(method: Method, origin: Mapping[str, Any], backbone: Backbone) -> tuple[Method, dict[str, Any]]:
    """The method of a sidecar, with the reward that it names, if it names one, and what is to be said about both now.

    Args:
        method: the method.
        origin: what the sidecar says about it; ``file`` is in the run's folder.
        backbone: the network.

    Raises:
        StarringError: if run, photographs or networks cannot be had any more.
    """
    if (said := origin.get("reward")) is None:
        return method, dict(origin)
    if not NAMED.issubset(said):
        raise StarringError("This film was rewarded by networks that were passed in; film its prompt with them again.")
    photographs = Run.open(Path(origin["file"]).parent).record.subject
    subject = again(photographs)
    if missing := set(photographs.digests.values()) - set(subject.digests):
        raise StarringError(
            f"This film was compared with {len(photographs.digests)} photographs, and {len(missing)} of them are no"
            f" longer in {photographs.folder}. Put them back, or film its prompt again."
        )
    eyes = eyes_for(subject, backbone, said["segmenter"], said["encoder"])
    return rewarded(method, origin, eyes, from_json(Reward, said["options"]))
