"""Each score of a film as a value and the protocol that it was measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from starring.metrics.alignment import text_alignment
from starring.metrics.catalogue import METRICS, Role
from starring.metrics.copying import copied_background, copied_pose
from starring.metrics.faces import FacePolicy, face_rate, face_similarity, reference_faces
from starring.metrics.identity import image_similarity
from starring.metrics.look import Look, References
from starring.metrics.motion import (
    consistency,
    course,
    course_likeness,
    dynamic,
    flow_magnitude,
    flow_magnitude_top,
    smoothness,
    steadiness,
    stride,
    trail,
    vbench_consistency,
)
from starring.perception.aesthetics import Aesthetic
from starring.perception.encoders import CLIP, DINO, PictureEncoder
from starring.perception.faces import FaceEyes
from starring.perception.flow import DIS, Flow
from starring.perception.identity import IdentityEncoder, IdentityEyes, MaskedSubjects
from starring.perception.interpolate import ByFlow, Interpolator
from starring.perception.segment import Segmenter

Measured = tuple[float, str] | None
"""A value and its protocol; ``None`` where this film has no such number."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Eyes:
    """Who looks, by role; a role without anybody leaves its scores out."""

    clip: CLIP | None = None
    """Compares frames with the prompt, with photographs and with each other."""
    dino: DINO | None = None
    """Compares frames with photographs and with each other."""
    subject: PictureEncoder | None = None
    """For VBench's subject consistency."""
    background: PictureEncoder | None = None
    """For VBench's background consistency."""
    flow: Flow | None = field(default_factory=DIS)
    """Measures motion."""
    interpolator: Interpolator | None = field(default_factory=ByFlow)
    """Draws the frame between two others."""
    aesthetic: Aesthetic | None = None
    """Rates pictures."""
    faces: FaceEyes | None = None
    """Finds and encodes faces."""
    other_faces: FaceEyes | None = None
    """The same, independently."""
    segmenter: Segmenter | None = None
    """Finds the subject."""
    identity: IdentityEncoder | None = None
    """Tells one subject from another."""
    policy: FacePolicy = field(default_factory=FacePolicy)
    """What to do with several faces, none, and negative cosines."""

    def of(self, role: Role) -> object | None:
        """Whoever has this role."""
        return getattr(self, role)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """What a film should show."""

    text: Tensor | None
    """CLIP's unit vector ``d`` of the prompt."""
    references: References | None
    """The subject's photographs."""
    class_word: str
    """What the subject is."""


def measured(key: str, eyes: Eyes, look: Look, asked: Asked) -> Measured:
    """One score of one film; ``None`` without the eyes it needs, or where the film has no such number."""
    if any(eyes.of(role) is None for role in METRICS[key].needs):
        return None
    return _MEASURES[key](eyes, look, asked)


def _likeness(encoder: PictureEncoder | None, look: Look, asked: Asked) -> Measured:
    if encoder is None or asked.references is None:
        return None
    value = image_similarity(look.vectors(encoder), asked.references.vectors(encoder))
    return value, f"cosine of all pairs; {encoder.protocol}"


def _clip_t(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    if eyes.clip is None or asked.text is None:
        return None
    return text_alignment(look.vectors(eyes.clip), asked.text), f"cosine with the prompt; {eyes.clip.protocol}"


def _neighbours(encoder: PictureEncoder | None, look: Look) -> Measured:
    if encoder is None:
        return None
    return consistency(look.vectors(encoder)), f"cosine of neighbours at {look.fps:g} fps; {encoder.protocol}"


def _vbench(encoder: PictureEncoder | None, look: Look) -> Measured:
    if encoder is None:
        return None
    shape = f"{len(look.frames)} frames at {look.fps:g} fps"
    return vbench_consistency(
        look.vectors(encoder)
    ), f"vbench first and neighbour, by film; {shape}; {encoder.protocol}"


def _steadiness(_eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    return steadiness(look.frames), f"vbench flicker, 8 bit, no static filter; {look.shape}"


def _smoothness(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    if eyes.interpolator is None or len(look.frames) < 3:
        return None
    return smoothness(look.frames, eyes.interpolator), f"vbench; {eyes.interpolator.protocol}; {look.shape}"


def _dynamic(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    every = stride(look.fps)
    taken = len(look.frames[::every])
    if eyes.flow is None or taken < 2:
        return None
    moves = dynamic(look.flow(eyes.flow, every), taken, look.fps)
    rule = "vbench top 5 % above 6 min(H, W) / 256 in n / 4 pairs, one at least, at 8 fps"
    return float(moves), f"{rule}; {eyes.flow.protocol}"


def _motion(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    if eyes.flow is None:
        return None
    return flow_magnitude(look.flow(eyes.flow)), f"mean; {eyes.flow.protocol}; {look.shape}"


def _motion_top(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    if eyes.flow is None:
        return None
    return flow_magnitude_top(look.flow(eyes.flow)), f"top 5 %; {eyes.flow.protocol}; {look.shape}"


def _course(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    clips = asked.references.clips if asked.references is not None else []
    if eyes.flow is None or not clips:
        return None
    own = course(look.flow(eyes.flow))
    value = sum(course_likeness(own, course(clip.flow(eyes.flow))) for clip in clips) / len(clips)
    return value, f"running displacement of the top 5 %, mean over clips; {eyes.flow.protocol}; {look.shape}"


def _trajectory(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    """A film that does not show its subject goes no way; a clip that does not show its mover is left out."""
    known = asked.references
    if eyes.segmenter is None or known is None or not known.mover or not asked.class_word:
        return None
    ways = [trail(clip.masks(eyes.segmenter, known.mover)) for clip in known.clips]
    seen = [way for way in ways if way is not None]
    if not seen:
        return None
    own = trail(look.masks(eyes.segmenter, asked.class_word))
    value = 0.0 if own is None else sum(course_likeness(own, way) for way in seen) / len(seen)
    return value, f"centroid, mean over clips of {known.mover}; {eyes.segmenter.id}; {look.shape}"


def _motion_share(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    clips = asked.references.clips if asked.references is not None else []
    if eyes.flow is None or not clips:
        return None
    theirs = sum(flow_magnitude_top(clip.flow(eyes.flow)) for clip in clips) / len(clips)
    if not theirs:
        return None
    own = flow_magnitude_top(look.flow(eyes.flow))
    return own / theirs, f"top 5 % over the clips' mean; {eyes.flow.protocol}; {look.shape}"


def _aesthetic(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    if eyes.aesthetic is None:
        return None
    ratings = eyes.aesthetic.rate(look.vectors(eyes.aesthetic.encoder))
    return float(ratings.double().mean() / 10), f"mean over 10; {eyes.aesthetic.protocol}"


def _face(who: FaceEyes | None, eyes: Eyes, look: Look, asked: Asked) -> Measured:
    if who is None or asked.references is None:
        return None
    person = reference_faces(asked.references.faces(who))
    if not len(person):
        return None
    return face_similarity(look.faces(who), person, eyes.policy), f"{eyes.policy.id}; {who.protocol}"


def _identity(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    """The mean, over the frames that show the subject, of its mean cosine with the photographs' subjects.

    A film that does not show it at all is 0 alike: else a method that loses its subject would be spared those films.
    The class word is not part of the protocol, or every class would have a column of its own.
    """
    if eyes.identity is None or eyes.segmenter is None or asked.references is None or not asked.class_word:
        return None
    seeing = IdentityEyes(finder=MaskedSubjects(eyes.segmenter, asked.class_word), encoder=eyes.identity)
    known, seen = asked.references.subjects(seeing), look.subjects(seeing)
    if not len(known):
        return None
    where = seeing.protocol.replace(f"'{asked.class_word}'", "by the class word")
    return image_similarity(seen, known) if len(seen) else 0.0, f"cosine of all pairs, nobody 0; {where}"


def _face_rate(eyes: Eyes, look: Look, _asked: Asked) -> Measured:
    return None if eyes.faces is None else (face_rate(look.faces(eyes.faces)), f"frames; {eyes.faces.protocol}")


def _copied_pose(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    if eyes.segmenter is None or asked.references is None or not asked.class_word:
        return None
    known = asked.references.masks(eyes.segmenter, asked.class_word)
    value = copied_pose(look.masks(eyes.segmenter, asked.class_word), known)
    return None if value is None else (value, f"silhouettes, nearest photograph or mirror image; {eyes.segmenter.id}")


def _copied_background(eyes: Eyes, look: Look, asked: Asked) -> Measured:
    if eyes.segmenter is None or eyes.dino is None or asked.references is None or not asked.class_word:
        return None
    where = (eyes.dino, eyes.segmenter, asked.class_word)
    value = copied_background(look.surroundings(*where), asked.references.surroundings(*where))
    return value, f"subject painted over, nearest photograph; {eyes.segmenter.id}; {eyes.dino.protocol}"


_MEASURES: Mapping[str, Callable[[Eyes, Look, Asked], Measured]] = {
    "dino_i": lambda eyes, look, asked: _likeness(eyes.dino, look, asked),
    "clip_i": lambda eyes, look, asked: _likeness(eyes.clip, look, asked),
    "identity": _identity,
    "face": lambda eyes, look, asked: _face(eyes.faces, eyes, look, asked),
    "other_face": lambda eyes, look, asked: _face(eyes.other_faces, eyes, look, asked),
    "face_rate": _face_rate,
    "clip_t": _clip_t,
    "consistency_clip": lambda eyes, look, _: _neighbours(eyes.clip, look),
    "consistency_dino": lambda eyes, look, _: _neighbours(eyes.dino, look),
    "subject": lambda eyes, look, _: _vbench(eyes.subject, look),
    "background": lambda eyes, look, _: _vbench(eyes.background, look),
    "steadiness": _steadiness,
    "smoothness": _smoothness,
    "dynamic": _dynamic,
    "motion": _motion,
    "motion_top": _motion_top,
    "course": _course,
    "trajectory": _trajectory,
    "motion_share": _motion_share,
    "aesthetic": _aesthetic,
    "copied_pose": _copied_pose,
    "copied_background": _copied_background,
}
