"""What is said about a picture of the miniature world: varied wording, every length up to the context.

Words can only be found by inversion where the embedding space is dense, so there are many of them; and a text
position that no caption ever reached behaves arbitrarily, so captions fill the whole context.
"""

from __future__ import annotations

import numpy as np

from starring.miniature.colours import COLOURS, lab, name_of
from starring.miniature.shapes import PEOPLE
from starring.miniature.world import Identity, Shot

MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "moving to the left", "going left", "running left", "walking to the left"),
    "right": ("moving right", "moving to the right", "going right", "running right", "walking to the right"),
    "jumping": ("jumping", "jumping up and down", "hopping", "leaping high", "jumping high"),
    "turning": ("turning around", "spinning around", "turning", "spinning"),
    "growing": ("growing", "getting bigger", "growing bigger", "coming closer"),
    "still": ("standing still", "staying still", "resting", "waiting calmly", "sitting still"),
}
"""Each motion and the wordings that name it; the first is the plainest."""

SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "by the sea", "on a sunny beach"),
    "forest": ("in the forest", "in the woods", "among tall trees", "in a green forest"),
    "snow": ("in the snow", "on snowy ground", "in winter", "in a snowy land"),
    "city": ("in the city", "on the street", "in front of buildings", "on a city road"),
    "desert": ("in the desert", "near a cactus", "on desert dunes", "in a hot desert"),
    "room": ("in a room", "indoors", "at home", "in a room with a window"),
    "meadow": ("on the meadow", "in the grass", "in a green field", "on a hill of grass"),
    "night": ("at night", "in the dark", "under the moon", "on a dark night"),
}
"""Each scene and the wordings that name it; the first is the plainest."""

OPENINGS = ("", "", "", "photo of", "a photo of", "a picture of", "an image of", "a film of", "a video of", "a view of")
CLOSE = ("close up", "zoomed in", "a close up of", "zoomed in on")
FAR = ("a far away", "very small", "tiny", "a distant view of")
FILLERS = (
    "flat colours",
    "simple shapes",
    "cartoon style",
    "clean drawing",
    "soft light",
    "bright light",
    "calm mood",
    "good quality",
    "colorful",
    "sharp edges",
    "a quiet day",
    "nice picture",
)
MARKS = {
    "spots": (("spotted", "dotted"), ("spots", "dots")),
    "stripes": (("striped", "banded"), ("stripes", "bands")),
    "patch": (("patched", "two tone"), ("patch", "blotch")),
    "belly": (("two tone", "half painted"), ("underside", "belly")),
}


OTHER_WORDS = """
light pale dark deep slim thin chubby wide short low tall plain solid happy young nice
hat scarf glasses hair trousers face legs head limbs big small long with wearing and facing
looking left right a the one in of dog cat bird fish turtle car robot teapot man woman
person animal toy thing object two dogs cats men women subject background floor sky
"""
"""Words that stand in no list of their own."""


def colour_words(rgb: tuple[int, int, int], rng: np.random.Generator) -> str:
    """The nearest colour word, sometimes with how the exact shade differs from it."""
    word = name_of(rgb)
    exact, centre = lab(np.array([rgb, COLOURS[word]], dtype=np.float64))
    if exact[0] - centre[0] > 2.5 and rng.random() < 0.5:
        return f"{rng.choice(['light', 'pale'])} {word}"
    if exact[0] - centre[0] < -2.5 and rng.random() < 0.5:
        return f"{rng.choice(['dark', 'deep'])} {word}"
    return word


def _build_words(who: Identity, detail: float, rng: np.random.Generator) -> list[str]:
    words: list[str] = []
    p = who.proportions
    for value, low, high in ((p.width, ("slim", "thin"), ("chubby", "wide")), (p.height, ("short", "low"), ("tall",))):
        if rng.random() < detail * 0.6:
            if value < 0.93:
                words.append(str(rng.choice(low)))
            elif value > 1.07:
                words.append(str(rng.choice(high)))
    return words


def _extras(who: Identity, detail: float, rng: np.random.Generator) -> list[str]:
    extras: list[str] = []
    p = who.proportions
    if who.pattern != "plain" and rng.random() < detail:
        singular = "a " if who.pattern in ("patch", "belly") else ""
        extras.append(f"with {singular}{colour_words(who.mark, rng)} {rng.choice(MARKS[who.pattern][1])}")
    if who.accessory != "none" and rng.random() < 0.25 + 0.75 * detail:
        link = str(rng.choice(["wearing", "with"]))
        article = "" if who.accessory == "glasses" else "a "
        extras.append(f"{link} {article}{colour_words(who.trim, rng)} {who.accessory}")
    if who.kind in PEOPLE and rng.random() < 0.2 + 0.6 * detail:
        extras.append(f"with {colour_words(who.hair, rng)} hair")
    if who.kind == "man" and rng.random() < detail * 0.6:
        extras.append(f"in {colour_words(who.second, rng)} trousers")
    if who.kind == "robot" and rng.random() < detail * 0.6:
        extras.append(f"with a {colour_words(who.second, rng)} face")
    if who.kind == "turtle" and rng.random() < detail * 0.6:
        extras.append(f"with {colour_words(who.second, rng)} legs")
    if rng.random() < detail * 0.4 and abs(p.head - 1) > 0.07:
        extras.append("with a big head" if p.head > 1 else "with a small head")
    if rng.random() < detail * 0.3 and abs(p.limb - 1) > 0.1:
        extras.append("with long limbs" if p.limb > 1 else "with short limbs")
    rng.shuffle(extras)
    return extras


def describe(who: Identity, rng: np.random.Generator, detail: float) -> str:
    """A noun phrase for a subject; ``detail`` in 0 to 1 is how likely each attribute is named."""
    words = [str(rng.choice(["a", "a", "a", "the", "one"]))]
    words += _build_words(who, detail, rng)
    if rng.random() < 0.35 + 0.65 * detail:
        words.append(colour_words(who.body, rng))
    if rng.random() < detail * 0.7:
        adjectives = ("plain", "solid") if who.pattern == "plain" else MARKS[who.pattern][0]
        words.append(str(rng.choice(adjectives)))
    words.append(who.kind)
    if who.kind in PEOPLE and rng.random() < 0.15:
        words.insert(1, str(rng.choice(["happy", "young", "nice"])))
    return " ".join(words + _extras(who, detail, rng))


def caption(shot: Shot, rng: np.random.Generator, limit: int = 28) -> str:
    """A caption of a shot, of at most ``limit`` words; now and then padded with neutral words to the full length."""
    detail = float(rng.choice([0.0, 0.25, 0.6, 1.0]))
    subjects = [describe(actor.identity, rng, detail * (1.0 if i == 0 else 0.5)) for i, actor in enumerate(shot.actors)]
    parts = [" and ".join(subjects)]
    if shot.motion != "turning" and rng.random() < 0.55:
        parts.append(f"{rng.choice(['facing', 'looking'])} {'right' if shot.facing > 0 else 'left'}")
    if rng.random() < 0.75:
        parts.append(str(rng.choice(MOTION_WORDS[shot.motion])))
    if rng.random() < 0.85:
        parts.append(str(rng.choice(SCENE_WORDS[shot.scene])))
    tail = parts[1:]
    rng.shuffle(tail)
    opening = str(rng.choice(OPENINGS))
    if shot.view != "normal" and rng.random() < 0.8:
        opening = str(rng.choice(CLOSE if shot.view == "close" else FAR))
    words = " ".join([opening, parts[0], *tail]).split()
    fill = rng.random()
    if fill < 0.25:
        target = int(rng.integers(len(words), limit + 1)) if len(words) < limit else limit
        while len(words) < target:
            words += str(rng.choice(FILLERS)).split()
    return " ".join(words[:limit])


def corpus() -> list[str]:
    """Every word of the world, for the tokenizer."""
    groups = [*MOTION_WORDS.values(), *SCENE_WORDS.values(), OPENINGS, CLOSE, FAR, FILLERS, tuple(COLOURS)]
    words = {word for group in groups for phrase in group for word in phrase.split()}
    words |= {
        word for adjectives, nouns in MARKS.values() for phrase in (*adjectives, *nouns) for word in phrase.split()
    }
    words |= set(OTHER_WORDS.split())
    return sorted(words)
