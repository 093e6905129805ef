"""The verbs that deal with other programs and with films that come back: export, adopt, verify."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Write what a run learned as an embedding for A1111, ComfyUI or diffusers, and its adapter as a LoRA."""

    learned: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run that `learn` made."""
    to: Annotated[str, arg(metavar="PROGRAM")]
    """Who will read it: a1111, comfyui or diffusers; dualreal for the authors' own code."""
    word: Word = None
    """What prompts will say; by default the subject's name."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to; its suffix chooses between .safetensors and .pt (.bin for diffusers). By default the run's exports/."""

    def run(self) -> None:
        """Write it and say how to use it."""
        from starring.data.subject import slug
        from starring.formats import LORA, export, spoken
        from starring.methods import find
        from starring.released import METHOD, export_adapter, spoken_as
        from starring.run import Run

        run = Run.open(self.learned)
        if self.to == METHOD:
            show.written("Adapter", export_adapter(run, self.out))
            show.remark("The authors' script is given a photograph of the subject beside it (--ref_image_path).")
            if (words := spoken_as(run)) is not None:
                show.remark(f'Its prompts have to name the subject as this run does: "{words}".')
            return
        path = export(run, self.to, self.out, self.word)
        show.written("Embedding", path)
        if find(run.record.recipe.method).lora is not None:
            show.written("LoRA", path.with_name(LORA))
            show.remark("It is for the last steps only: docs/methods/personalvideo.md shows how diffusers does that.")
        subject = run.record.subject
        prompt = spoken(self.to, path, slug(self.word or subject.name), subject.class_word)
        show.remark(f'Prompts say it like this: "{prompt}"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopt(Machine):
    """Make a run of somebody else's embedding (A1111, ComfyUI, diffusers) or of DualReal's adapter.pth."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The embedding (.safetensors, .pt or .bin) or adapter.pth. Pickles are read without running what they hold."""
    class_word: Annotated[str, arg(metavar="WORD")] = ""
    """What the subject is, such as dog."""
    photograph: Annotated[Path | None, arg(metavar="PICTURE")] = None
    """The subject, for an adapter.pth: it conditions the motion in films."""
    encoder: Word = None
    """CLIP that looks at it; by default the one that the method names."""
    stretch: bool = False
    """Show it the photograph as the authors' script does, stretched to a square; by default its middle is cut out."""
    runs: Annotated[Path, arg(aliases=["--output-dir"])] = Path("runs")
    """Where the run's folder goes."""
    name: Annotated[str | None, arg(metavar="NAME", aliases=["--output-name"])] = None
    """The run's name; that of the file by default. Nothing is overwritten: a number is added."""

    def run(self) -> None:
        """Adopt it."""
        from starring.formats import adopt, read_embedding
        from starring.released import adopt_adapter, is_adapter

        if is_adapter(self.file):
            run = adopt_adapter(
                self.file, self.load(), class_word=self.class_word, photograph=self.photograph, encoder=self.encoder,
                stretch=self.stretch, runs_dir=self.runs, name=self.name,
            )  # fmt: skip
            show.written("Adopted", run.folder)
        else:
            embedding = read_embedding(self.file)  # refused files are told before gigabytes are loaded
            run = adopt(self.file, self.load(), class_word=self.class_word, runs_dir=self.runs, name=self.name)
            show.written(f"Adopted, {len(embedding.rows)} vectors", run.folder)
        prompt = " ".join(f"a <*> {self.class_word} running on the beach".split())
        show.remark(f'Film it: starring generate {run.folder} "{prompt}"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Read what a film says about how it was made, and tell whether it could be made again here."""

    film: Annotated[Positional[Path], arg(metavar="FILM")]
    """The film (mp4), or the .json beside it."""

    def run(self) -> None:
        """Tell."""
        from starring.provenance import verify

        told = verify(self.film)
        facts = told.facts
        learned = facts["method"].get("learned", {})
        rows = [
            ("prompt", facts["prompt"]),
            ("seed", str(facts["seed"])),
            ("method", facts["method"]["name"]),
            ("learned by", learned.get("recipe", {}).get("source", "nothing was learned")),
            ("sampling", ", ".join(f"{key} {value}" for key, value in facts["sample"].items() if value != "")),
            ("marked as", facts.get("digital_source_type", "")),
        ]
        show.table(f"What {told.path.name} says", ("what", "value"), [row for row in rows if row[1]])
        show.table(
            "What it depends on", ("what", "then", "now", ""),
            [(each.what, each.then, each.now, each.state) for each in told.findings],
        )  # fmt: skip
        for remark in told.remarks:
            show.remark(remark)
        show.result(told.conclusion)
        if told.possible:
            show.remark(f"Make it again: starring generate --from {told.path}")
