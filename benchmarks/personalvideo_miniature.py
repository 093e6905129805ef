"""PersonalVideo on held-out subjects of the miniature: is it more like them than its rivals, and does it still move?

    python benchmarks/personalvideo_miniature.py --people 6 --others 6 --seeds 2

Each subject is learned from six photographs by VCD, by textual inversion with a LoRA (BridgeIV's first stage), and by
PersonalVideo, which also learns it from a single one. What its adapter adds is told by the words alone, which are the
very words it goes on from, and by a LoRA that goes on from them as well. All film the same prompts with the same
seeds, as the untuned model does with the class word. Identity is told by the encoder that rewards nothing, against
six photographs in other scenes that nobody learned from; the ceiling is the subject really rendered doing what the
prompt says. Since no likeness sees what is painted over the scene, the share of the background that stays as in the
films of the words alone is told as well. No checkpoint is chosen: the last one is filmed. Subjects are finished one
after the other, and what was made is kept, so that it goes on where it was stopped and the table holds whoever is
finished. The scores of all films lie in ``benchmarks/scores``: whoever is found there is not learned again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from crew import Crew, Scores, cell, learned, mean, photographed, told, unseen
from rich.console import Console
from rich.table import Table
from vcd_miniature import real_films

from starring.backbones.presets import load_backbone
from starring.config import Recipe, to_json
from starring.data.prompts import plain, suite
from starring.evaluate.shots import Ledger, Order, Shot, Studio, as_pixels
from starring.generate.films import fingerprint
from starring.methods import build, recipe
from starring.metrics.copying import kept_background, kept_motion
from starring.metrics.protocols import Protocol
from starring.metrics.suite import References, load_judge
from starring.miniature import world
from starring.miniature.shapes import CLASSES, PEOPLE
from starring.run import Run

console = Console()
SCORES = ("identity", "dino_i", "clip_t", "motion_top")
FLOOR, CEILING = "untuned model", "the subject itself"
PV, PV_ONE = "PersonalVideo", "PersonalVideo, one photograph"
WORDS, WORDS_ONE = "the words alone", "the words alone, one photograph"
MORE = ("a <*> {} turning around in the snow", "a <*> {} moving right in the desert")
"""Prompts beside those of the suite ``miniature``."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row that learns."""

    recipe: Recipe
    photographs: int = 6
    """How many it is given."""
    words: str | None = None
    """The row whose words it goes on from."""


def ways() -> dict[str, Way]:
    """The rows that learn, those that others go on from before them."""
    lora = recipe("bridgeiv-miniature")
    lora = replace(lora, options={**lora.options, "structure": False, "texture": False})
    own = recipe("personalvideo-miniature")
    words = replace(own, stages=own.stages[:1])
    return {
        "VCD": Way(recipe=recipe("vcd-miniature")),
        "textual inversion + LoRA": Way(recipe=lora),
        WORDS: Way(recipe=words),
        PV: Way(recipe=own, words=WORDS),
        "LoRA on PersonalVideo's words": Way(recipe=lora, words=WORDS),
        WORDS_ONE: Way(recipe=words, photographs=1),
        PV_ONE: Way(recipe=own, photographs=1, words=WORDS_ONE),
    }


def asked(class_word: str) -> list[str]:
    """The prompts."""
    return [*suite("miniature", class_word), *(prompt.format(class_word) for prompt in MORE)]


def cast(people: int, others: int, development: bool) -> list[world.Identity]:
    """Subjects that no training saw, persons and others in turn."""
    rest = [kind for kind in CLASSES if kind not in PEOPLE]

    def row(kinds: Sequence[str], count: int, first: int) -> list[world.Identity]:
        seeds = (10 * (first + i) + (1 if development else 0) for i in range(count))
        return [world.identity(seed, kinds[i % len(kinds)]) for i, seed in enumerate(seeds)]

    humans, things = row(sorted(PEOPLE, reverse=True), people, 61), row(rest, others, 31)
    longest = max(people, others)
    return [who for i in range(longest) for each in (humans, things) for who in each[i : i + 1]]


def filmed(run: Run, customized: bool, studio: Studio, known: References, crew: Crew) -> list[Shot]:
    """A run's films of all prompts and seeds, or the untuned model's."""
    record = run.record
    word, options = record.subject.class_word, dict(record.recipe.options)
    gamma = build(record.recipe.method, crew.backbone, options).correlation if customized else 0.0
    weights = hashlib.sha256(run.weights.read_bytes()).hexdigest() if customized else None
    sample = replace(record.recipe.sample or crew.backbone.sample, steps=crew.steps)
    return [
        studio.shot(
            Order(
                run=run, customized=customized, prompt=prompt, said=plain(prompt, word), seed=seed, sample=sample,
                correlation=gamma, weights=weights,
            ),
            crew.backbone, known,
        )
        for prompt in asked(word)
        for seed in range(crew.seeds)
    ]  # fmt: skip


def background(film: Shot, floor: Shot, crew: Crew, word: str) -> dict[str, float]:
    """How much of the scene is as in another film of the same prompt and seed."""
    segmenter = crew.judge.eyes.segmenter
    assert segmenter is not None  # the judge is loaded with one
    looks = [crew.judge.look(as_pixels(shot.load())) for shot in (film, floor)]
    masks = [look.masks(segmenter, word) for look in looks]
    share = kept_background(looks[0].frames, looks[1].frames, *masks)
    return {} if share is None else {"background": share}


def subject_rows(who: world.Identity, folder: Path, crew: Crew) -> dict[str, list[dict[str, float]]]:
    """Scores of all films of one subject, by row; learned and filmed now unless they were before."""
    subject = photographed(who, folder / "photographs")
    name, known = subject.name, crew.judge.references(unseen(who))
    studio = Studio(Ledger.open(folder / "films" / name), crew.judge, lambda *_: None)
    found: dict[str, list[dict[str, float]]] = {}
    runs: dict[str, Run] = {}
    shots: dict[str, list[Shot]] = {}
    for label, way in ways().items():
        given = subject.choose(range(way.photographs))
        title = "-".join((name, *label.replace("+", "").replace(",", "").split()))
        words = None if way.words is None else runs[way.words].folder
        run = runs[label] = learned(given, way.recipe, crew.backbone, folder / "runs", title, tokens=words)
        if FLOOR not in found:
            found[FLOOR] = [told(shot) for shot in filmed(run, False, studio, known, crew)]
        shots[label] = filmed(run, True, studio, known, crew)
        floor = shots[way.words] if way.words is not None else [None] * len(shots[label])
        found[label] = [
            told(shot) | ({} if other is None else background(shot, other, crew, who.kind))
            for shot, other in zip(shots[label], floor, strict=True)
        ]
        means = {key: round(mean(found[label], key), 3) for key in SCORES}
        console.print(f"{name}, {label}: {means}")
    prompts = asked(who.kind)
    found[CEILING] = [
        {
            key: score.value
            for key, score in crew.judge.score(pixels, plain(prompt, who.kind), known, class_word=who.kind).items()
        }
        for prompt, pixels in real_films(who, prompts)
    ]
    return found


def _moved(rows: Sequence[Mapping[str, Sequence[Mapping[str, float]]]], label: str) -> str:
    """The share of the untuned model's motion, with its 95 % interval."""
    pairs = [
        (film["motion_top"], base["motion_top"])
        for row in rows
        for film, base in zip(row[label], row[FLOOR], strict=True)
    ]
    kept = kept_motion([a for a, _ in pairs], [b for _, b in pairs])
    return "-" if kept is None else f"{kept.share:.2f} ({kept.low:.2f} to {kept.high:.2f})"


def table(title: str, rows: Sequence[Mapping[str, Sequence[Mapping[str, float]]]]) -> None:
    """Means over a subject's films, then over subjects with their standard error."""
    shown = Table(
        "", "identity", "less PersonalVideo's identity", "DINO-I", "CLIP-T", "motion of the untuned",
        "background of the words' films", title=title,
    )  # fmt: skip

    for label in rows[0]:
        behind = "" if label == PV else cell([mean(r[label], "identity") - mean(r[PV], "identity") for r in rows])
        cells = {key: cell([mean(row[label], key) for row in rows]) for key in SCORES[:3]}
        motion = "" if label in (FLOOR, CEILING) else _moved(rows, label)
        scenes = [[film["background"] for film in row[label] if "background" in film] for row in rows]
        scene = cell([sum(row) / len(row) for row in scenes if row]) if any(scenes) else ""
        shown.add_row(label, cells["identity"], behind, cells["dino_i"], cells["clip_t"], motion, scene)
    console.print(shown)


def main(
    people: int = 6, others: int = 6, seeds: int = 2, steps: int = 25, development: bool = False,
    out: Path = Path("build/personalvideo-miniature"), scores: Path = Path("benchmarks/scores/personalvideo"),
    skip: int = 0,
) -> None:  # fmt: skip
    """Run the comparison.

    Args:
        people: how many persons.
        others: how many other subjects.
        seeds: films of each prompt.
        steps: denoising steps of each film.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        out: where everything goes.
        scores: where the scores of the finished subjects lie.
        skip: leave out so many of the first subjects, which another process makes; without it all are found made.
    """
    protocol = Protocol(name="personalvideo-miniature", source="PersonalVideo, section 5.3, in small", metrics=SCORES)
    judge = load_judge("miniature", protocol=protocol, eyes={"identity": "miniature-score", "segmenter": "miniature"})
    crew = Crew(backbone=load_backbone("miniature"), judge=judge, steps=steps, seeds=seeds)
    state = f"{fingerprint(crew.backbone)} {to_json({k: v.recipe for k, v in ways().items()})}"
    folder = out / hashlib.sha256(state.encode()).hexdigest()[:12]
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    settings = {"seeds": seeds, "steps": steps, "judge": judge.protocol, "development": development}
    published = Scores.under(scores, state, settings)
    for who in cast(people, others, development)[skip:]:
        name = f"{who.kind}-{who.seed}"
        rows[name] = published.of(name, lambda who=who: subject_rows(who, folder, crew))
        groups = {
            "persons": [row for name, row in rows.items() if name.split("-")[0] in PEOPLE],
            "others": [row for name, row in rows.items() if name.split("-")[0] not in PEOPLE],
            "all": list(rows.values()),
        }
        for title, each in groups.items():
            if each:
                table(f"{title}: {len(each)}", each)


if __name__ == "__main__":
    tyro.cli(main)
