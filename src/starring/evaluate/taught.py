"""Who may judge: whoever gave the reward in learning does not say fairly how well it was followed."""

from __future__ import annotations

from collections.abc import Sequence

from starring.errors import StarringError
from starring.metrics.catalogue import METRICS, WHO
from starring.metrics.suite import Judge
from starring.perception.identity import Identity
from starring.run import Run

TEXT = "clip_t"
"""The one that tells what is shown, and not who."""


def weights_of(identity: Identity) -> str:
    """The fingerprint of the weights that reward, as it stands in every protocol of who looks through them."""
    return _fingerprint(identity.eyes.encoder.id)


def who(judge: Judge, taught: str = "") -> str:
    """The judge's score that best tells who it is: an identity encoder's, faces, or else DINO-I, or CLIP-I.

    Args:
        judge: who scores.
        taught: fingerprint of weights that gave a reward (:func:`weights_of`); they do not judge what they taught.

    Raises:
        StarringError: if it has none.
    """
    for key, protocol in _seeing(judge).items():
        if key != TEXT and key in judge.preset.metrics and not (taught and taught in protocol):
            return key
    raise StarringError(
        "Checkpoints are chosen by identity, among others, as another network than the reward's sees it. Name a judge"
        " that has DINO by --judge."
    )


def unfair(judge: Judge, runs: Sequence[Run]) -> list[str]:
    """A sentence for each score by weights that some of the runs were rewarded by."""
    found: list[str] = []
    for key, protocol in _seeing(judge).items():
        teachers = {name for run in runs for name in run.record.rewarded if _fingerprint(name) in protocol}
        if key in judge.preset.metrics and teachers:
            names = sorted({run.name for run in runs if teachers & set(run.record.rewarded)})
            found.append(
                f"{METRICS[key].title} is by {' and '.join(sorted(teachers))}, which gave the reward that"
                f" {', '.join(names)} learned by: it says how well the reward was followed, and not how alike the films"
                " are. Name another encoder by --eyes."
            )
    return found


def _seeing(judge: Judge) -> dict[str, str]:
    """Scores that an encoder gives, the ones that best tell who it is first, with its protocol."""
    eyes = judge.eyes
    found = {"identity": eyes.identity, "face": eyes.faces, "dino_i": eyes.dino, "clip_i": eyes.clip, TEXT: eyes.clip}
    return {key: those.protocol for key in (*WHO, TEXT) if (those := found[key]) is not None}


def _fingerprint(name: str) -> str:
    return name.rpartition("@")[2]
