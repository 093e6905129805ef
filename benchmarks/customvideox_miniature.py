"""CustomVideoX on held-out subjects of the miniature: what one photograph recovers, and what naive injection copies.

    python benchmarks/customvideox_miniature.py --count 16

Nothing is tuned: each subject is shown in the first of its photographs, cut out. All rows film the same prompts with
the same seeds, as the same model does without a reference. Likeness is told against photographs in other scenes that
nobody was shown. The share recovered lies between the model without a reference (0) and the subject really rendered
doing what the prompt says (1). ``copied`` is how much more like the reference picture, as it was shown, the first frame
is than the second half of the film: a model that takes the reference for the film's beginning copies it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from crew import Crew, Scores, cell, mean, unseen
from rich.console import Console
from rich.table import Table
from torch import Tensor
from vcd_miniature import real_films, subjects

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import to_json
from starring.data.cutouts import cut_out, on_white
from starring.data.prompts import plain, suite
from starring.data.subject import Subject
from starring.evaluate.shots import Ledger, Order, Shot, Studio, as_pixels
from starring.generate.films import fingerprint
from starring.learn import learn
from starring.methods import recipe
from starring.methods.customvideox import CustomVideoX
from starring.metrics.protocols import Protocol
from starring.metrics.statistics import recovered
from starring.metrics.suite import Judge, References, load_judge
from starring.miniature import world
from starring.perception.transforms import to_unit
from starring.run import Run

console = Console()
SCORES = ("dino_i", "clip_i", "clip_t", "identity", "motion_top")
FLOOR, CEILING = "without reference", "the subject itself"
Rows = dict[str, list[dict[str, float]]]


def shown(subject: Subject, folder: Path, backbone: Backbone, tokens: Path | None) -> Run:
    """The adapter as a finished run beside a subject's photographs; nothing is learned."""
    if (folder / subject.name / "config.json").is_file():
        return Run.open(folder / subject.name)
    chosen = recipe("customvideox-miniature")
    return learn("customvideox", subject, backbone, chosen, folder, name=subject.name, tokens=tokens)


def filmed(run: Run, options: Mapping[str, Any], studio: Studio, known: References, crew: Crew) -> list[Shot]:
    """Films of all prompts and seeds under a row's options."""
    record = run.record
    word = record.subject.class_word
    chosen = replace(record.recipe, options={**record.recipe.options, **options})
    asked = replace(run, record=replace(record, recipe=chosen))
    weights = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    sample = replace(chosen.sample or crew.backbone.sample, steps=crew.steps)
    return [
        studio.shot(
            Order(
                run=asked, customized=True, prompt=prompt, said=plain(prompt, word), seed=seed,
                sample=sample, correlation=0.0, weights=weights,
            ),
            crew.backbone, known,
        )
        for prompt in suite("miniature", word)
        for seed in range(crew.seeds)
    ]  # fmt: skip


def copied(frames: Tensor, picture: Tensor, judge: Judge) -> float:
    """How much more like the reference ``1 3 H W`` in [0, 1] a film's first frame is than its second half.

    Args:
        frames: ``3 F H W`` in [-1, 1].
        picture: the reference as the model saw it, with what it stands on.
        judge: whose DINO looks at the whole pictures.
    """
    vectors = judge.look(frames).vectors(judge.dino)
    likeness = vectors @ judge.dino.images(picture)[0].cpu()
    return float(likeness[0] - likeness[len(likeness) // 2 :].mean())


def subject_rows(who: world.Identity, subject: Subject, folder: Path, crew: Crew, tokens: Path | None) -> Rows:
    """Scores of all films of one subject, by row; filmed now unless they were before."""
    run = shown(subject, folder / "runs", crew.backbone, tokens)
    known = crew.judge.references(unseen(who))
    size = crew.backbone.sample.height, crew.backbone.sample.width
    segmenter = crew.judge.eyes.segmenter
    assert segmenter is not None  # the judge is loaded with one
    cut = cut_out(subject.images[0], segmenter.segment([subject.images[0]], who.kind)[0])
    picture = to_unit(on_white(cut, size)[None])[0].transpose(0, 1)
    studio = Studio(Ledger.open(folder / "films" / subject.name), crew.judge, lambda *_: None)

    def scored(frames: Tensor, scores: Mapping[str, float]) -> dict[str, float]:
        # A film that shows nobody is unlike the subject.
        return {"identity": 0.0, **scores, "copied": copied(frames, picture, crew.judge)}

    found: Rows = {}
    for label, row in CustomVideoX.ablation.items():
        shots = filmed(run, row["options"], studio, known, crew)
        found[label] = [
            scored(as_pixels(shot.load()), {key: score.value for key, score in shot.scores.items()}) for shot in shots
        ]
        means = {key: round(mean(found[label], key), 3) for key in (*SCORES, "copied")}
        console.print(f"{subject.name}, {label}: {means}")
    found[CEILING] = [
        scored(
            pixels,
            {
                key: score.value
                for key, score in crew.judge.score(pixels, plain(text, who.kind), known, class_word=who.kind).items()
            },
        )
        for text, pixels in real_films(who, suite("miniature", who.kind))
    ]
    return found


def share(rows: Sequence[Rows], label: str, key: str) -> str:
    """What of the way from the model without a reference to the subject itself is gone, over subjects."""
    scores, floors, ceilings = ([mean(row[which], key) for row in rows] for which in (label, FLOOR, CEILING))
    value = recovered(scores, floors, sum(ceilings) / len(ceilings))
    if value is None:
        return "-"
    return f"{100 * value.mean:.0f} %" + (f" \u00b1 {100 * value.error:.0f}" if value.error is not None else "")


def table(rows: Sequence[Rows]) -> None:
    """Means over a subject's films, then over subjects with their standard error."""
    shown = Table(
        "", "DINO-I", "recovered", "CLIP-I", "recovered", "identity", "CLIP-T", "less the model's", "copied",
        "motion", title=f"{len(rows)} subjects",
    )  # fmt: skip
    for label in rows[0]:
        between = label not in (FLOOR, CEILING)
        cells = {key: cell([mean(row[label], key) for row in rows]) for key in (*SCORES, "copied")}
        text = cell([mean(row[label], "clip_t") - mean(row[FLOOR], "clip_t") for row in rows])
        shown.add_row(
            label, cells["dino_i"], share(rows, label, "dino_i") if between else "", cells["clip_i"],
            share(rows, label, "clip_i") if between else "", cells["identity"], cells["clip_t"],
            "" if label == FLOOR else text, cells["copied"], cells["motion_top"],
        )  # fmt: skip
    console.print(shown)


def main(
    count: int = 16, seeds: int = 1, steps: int = 25, development: bool = False, backbone: str = "miniature-dit",
    tokens: Path | None = None, out: Path = Path("build/customvideox-miniature"),
    scores: Path = Path("benchmarks/scores/customvideox"), skip: int = 0,
) -> None:  # fmt: skip
    """Run the comparison.

    Args:
        count: how many subjects.
        seeds: films of each prompt.
        steps: denoising steps of each film.
        development: take the subjects that settings may be chosen on, not the held-out ones.
        backbone: the second miniature, or a folder with one.
        tokens: a run that learned an adapter on pairs, instead of the one that ships.
        out: where everything goes.
        scores: where the scores of the finished subjects lie; whoever is found there is not filmed again.
        skip: leave out so many of the first subjects, which another process films; without it all are found made.
    """
    loaded = load_backbone(backbone)
    protocol = Protocol(name="customvideox-miniature", source="CustomVideoX, section 4, in small", metrics=SCORES)
    judge = load_judge("miniature", protocol=protocol, eyes={"identity": "miniature-score", "segmenter": "miniature"})
    crew = Crew(backbone=loaded, judge=judge, steps=steps, seeds=seeds)
    state = f"{fingerprint(loaded)} {to_json(recipe('customvideox-miniature'))} {tokens and tokens.resolve()}"
    folder = out / hashlib.sha256(state.encode()).hexdigest()[:12]
    rows: dict[str, Rows] = {}
    settings = {"seeds": seeds, "steps": steps, "judge": judge.protocol, "development": development}
    published = Scores.under(scores, state, settings)
    for who, subject in subjects(count, out / "photographs", development)[skip:]:
        rows[subject.name] = published.of(
            subject.name,
            lambda who=who, subject=subject: subject_rows(who, subject, folder, crew, tokens),
        )
        table(list(rows.values()))


if __name__ == "__main__":
    tyro.cli(main)
