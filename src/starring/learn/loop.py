"""The loop itself: batches, steps, stages, checkpoints, previews, validation."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe, Stage, Train
from starring.data.augment import seeded
from starring.data.files import write_image
from starring.data.latents import Bank, Draw, LatentBank
from starring.data.video import contact_sheet
from starring.errors import Interrupted, StarringError
from starring.learn.choice import Chooser, alarms, why
from starring.learn.clips import Clips
from starring.learn.guards import Stop, guarded, random_state, set_random_state
from starring.learn.progress import OnProgress, Preview, Progress
from starring.learn.stages import trained_on
from starring.learn.voids import SEEN, require_some_use, void_in
from starring.methods import Batch, Method, Request
from starring.perception.identity import Identity
from starring.run import Checkpoint, Run

SHEET = 8
"""Frames of a preview that are shown."""


@dataclass(kw_only=True, slots=True, eq=False)
class Place:
    """Where training stands, and what moves it on: the one mutable thing here, all of it in a checkpoint."""

    stage: int
    """Index of the stage."""
    generator: torch.Generator
    """Noise, timesteps and opened masks of this process."""
    optimizer: Any
    """AdamW, as accelerate wraps it."""
    scheduler: Any
    """The learning rate's."""
    backbone: Backbone
    """What the stage trains on."""
    step: int = 0
    """Optimiser steps over all stages."""
    stage_step: int = 0
    """Optimiser steps of this stage."""
    position: int = 0
    """Samples drawn in this stage, by all processes."""
    voids: int = 0
    """Steps in a row whose reward was no number, those without the subject not counted; the log has it too."""
    unseen: int = 0
    """Rewarded steps in a row without the subject on any film; the log has it too."""
    started: float = field(default_factory=time.perf_counter)
    """When this process began the stage; never stored."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loop:
    """Everything training needs; :meth:`train` is all that is called from outside."""

    run: Run
    recipe: Recipe
    method: Method
    backbone: Backbone
    accelerator: Accelerator
    bank: Bank
    stop: Stop
    tell: OnProgress
    prior: LatentBank | None = None
    """Pictures of the class, if a stage asks for them."""
    clips: Clips | None = None
    """The motion's clips, if a stage asks for them."""
    identity: Identity | None = None
    """Eyes that know the subject, if a stage is rewarded."""
    preview: Preview | None = None
    beside: tuple[Tensor, str] | None = None
    """Reference and entity of previews, for methods that film beside a picture."""
    chooser: Chooser | None = None
    """Who says which checkpoint is the result; the last one without."""

    @property
    def total(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.train.steps for stage in self.recipe.stages)

    @property
    def main(self) -> bool:
        """Whether this process writes and tells."""
        return self.accelerator.is_main_process

    def train(self) -> None:
        """Go through what is left of the stages, then write the result."""
        state = self.run.load_checkpoint()
        if self.main:
            self.run.rewind(state.step if state else 0)
        if state is not None:
            self.method.load_state_dict(dict(state.weights))
        step = state.step if state else 0
        self.accelerator.wait_for_everyone()
        for index in range(state.stage if state else 0, len(self.recipe.stages)):
            place = self._begin(index, step, state if state and state.stage == index else None)
            self._stage(place, self.recipe.stages[index])
            step = place.step
        if self.main:
            self.run.save_weights(self._result())
            shutil.rmtree(self.run.cache, ignore_errors=True)
            self.tell(Progress(phase="done", step=self.total, total=self.total, run=self.run.folder))
        self.accelerator.wait_for_everyone()

    def _begin(self, index: int, step: int, state: Checkpoint | None) -> Place:
        """A stage's optimizer, scheduler and randomness: fresh, or as the checkpoint has them."""
        stage, rank = self.recipe.stages[index], self.accelerator.process_index
        own = list(self.method.learns(stage.name))
        if not own:
            raise StarringError(f"'{self.recipe.method}' learns nothing in its stage '{stage.name}'. Remove the stage.")
        for parameter in self.method.parameters():
            parameter.requires_grad_(any(parameter is p for p in own))
        t = stage.train
        shares = {id(p): self.method.rate(p) for p in own}
        groups = [
            {"params": [p for p in own if shares[id(p)] == share], "lr": share * t.learning_rate}
            for share in dict.fromkeys(shares.values())
        ]
        optimizer = torch.optim.AdamW(groups, betas=t.betas, eps=t.eps, weight_decay=t.weight_decay)
        place = Place(
            stage=index, step=step, generator=seeded(t.seed, "stage", index, rank),
            optimizer=self.accelerator.prepare_optimizer(optimizer), scheduler=_schedule(optimizer, t),
            backbone=trained_on(stage, self.backbone),
        )  # fmt: skip
        if state is not None:
            self._restore(place, state, stage)
        return place

    def _restore(self, place: Place, state: Checkpoint, stage: Stage) -> None:
        if len(state.rng) != self.accelerator.num_processes:
            raise StarringError(
                f"{self.run.folder} was trained by {len(state.rng)} processes, not by {self.accelerator.num_processes}."
                " Resume it with as many."
            )
        place.optimizer.load_state_dict(dict(state.optimizer))
        place.scheduler.load_state_dict(dict(state.scheduler))
        scaler = self.accelerator.scaler
        if scaler is not None and state.scaler:
            scaler.load_state_dict(dict(state.scaler))
        place.stage_step, place.position = state.stage_step, state.position
        place.voids, place.unseen = void_in(self.run.entries(), stage.name)
        set_random_state(state.rng[self.accelerator.process_index], place.generator)

    def _result(self) -> dict[str, Tensor]:
        """The last weights, or those whose films are best."""
        if self.chooser is None:
            return self.method.state_dict()
        chosen = self.chooser.settle()
        reason = why(self.chooser.trials)
        self.tell(Progress(phase="choose", step=self.total, total=self.total, note=reason, run=self.run.folder))
        return chosen

    def _stage(self, place: Place, stage: Stage) -> None:
        t = stage.train
        self._judge(place, stage)  # a process that was killed while filming has left that to be done
        while place.stage_step < t.steps:
            loss, parts = self._step(place, stage)
            place.step, place.stage_step = place.step + 1, place.stage_step + 1
            if self.main:
                self._note(place, stage, loss, parts)
            stopping, due = self._stopping(), place.stage_step % max(1, t.checkpoint_every) == 0
            if stopping or due or place.stage_step == t.steps or self._due(place):
                self._save(place, t)
            if stopping:
                raise Interrupted(
                    f"Stopped at step {place.step} of {self.total}; everything is saved. Go on with:"
                    f" {self.run.resume_command}"
                )
            self._film(place)
            self._judge(place, stage)

    def _due(self, place: Place) -> bool:
        """Whether this step's films are to be scored. Every process has to know, since all save together."""
        return self._anyone(self.chooser is not None and self.main and self.chooser.due(place.step))

    def _stopping(self) -> bool:
        """Whether any process was asked to stop: one may have heard before the others, and all must stop together."""
        return self._anyone(self.stop.wanted)

    def _anyone(self, wanted: bool) -> bool:
        """Whether any process says so: what one does, all must do together."""
        return any(gather_object([wanted])) if self.accelerator.num_processes > 1 else wanted

    def _step(self, place: Place, stage: Stage) -> tuple[float, dict[str, float]]:
        """One optimiser step, over all micro-batches and processes; a void one changes nothing."""
        t, world = stage.train, self.accelerator.num_processes
        total, parts, void = 0.0, dict[str, float](), False
        on_clips = self._on_clips(place, stage)
        self.method.train()
        for _ in range(t.accumulate):
            batch = self._next(place, stage, on_clips)
            place.position += t.batch * world
            resting = {id(parameter) for parameter in self.method.rests(batch)}
            for parameter in _learning(place):
                # What asks for no gradient has none, and AdamW then passes it by: no decay, no moments.
                parameter.requires_grad_(id(parameter) not in resting)
            # Around backward too: under gradient checkpointing it runs the network again.
            with self.method.attached(place.backbone):
                with self.accelerator.autocast():
                    losses = self.method(place.backbone, batch, place.stage_step / t.steps)
                value = float(losses.total.detach())
                if not math.isfinite(value):
                    raise StarringError(
                        f"The loss is {value} at step {place.step + 1} of {self.run.folder}. Lower the learning rate"
                        f" ({t.learning_rate}), or train with precision no or bf16 (now {t.precision})."
                    )
                if not losses.void:
                    self.accelerator.backward(losses.total / t.accumulate)
                for parameter in self.method.stills(batch):
                    if parameter.grad is not None:
                        parameter.grad.zero_()
            void = void or losses.void
            total += value / t.accumulate
            for name, part in losses.parts.items():
                parts[name] = parts.get(name, 0.0) + float(part) / t.accumulate
        seen = True
        if stage.rewarded:
            void = self._anyone(void or (self.accelerator.scaler is None and not _finite(_learning(place))))
            seen = self._anyone(parts.get(SEEN, 1.0) > 0)
            parts["void"] = float(void)
        if void or not seen:
            self._skip(place, stage, seen)
        else:
            place.voids = place.unseen = 0
            self._descend(place, t)
        return self._averaged(total, parts)

    def _averaged(self, loss: float, parts: dict[str, float]) -> tuple[float, dict[str, float]]:
        """A step's loss and its parts, over all processes."""
        if self.accelerator.num_processes == 1:
            return loss, parts
        told = gather_object([(loss, parts)])
        # A process that saw nobody has no likeness to tell.
        values = {
            name: [each[name] for _, each in told if name in each] for name in {n for _, each in told for n in each}
        }
        mean = {name: sum(some) / len(some) for name, some in sorted(values.items())}
        return sum(each for each, _ in told) / len(told), mean

    def _skip(self, place: Place, stage: Stage, seen: bool) -> None:
        """Leave everything as it was, since the reward or its gradient was no number, or nobody was seen.

        Raises:
            StarringError: if that was so too often in a row.
        """
        place.optimizer.zero_grad()
        place.voids, place.unseen = place.voids + seen, 0 if seen else place.unseen + 1
        at = f"at step {place.step + 1} of {self.run.folder}"
        require_some_use(place.voids, place.unseen, stage.train.steps, at)
        reason = "the reward or its gradient is no number" if seen else "the subject is not seen on its film"
        note = f"Step {place.step + 1} was left out: {reason}."
        self.tell(Progress(phase="learn", step=place.step, total=self.total, note=note, run=self.run.folder))

    def _on_clips(self, place: Place, stage: Stage) -> bool:
        """Whether this step, in all processes, is on clips: a function of the step, so that resuming is exact."""
        if self.clips is None or not stage.clips:
            return False
        coin = torch.rand((), generator=seeded(stage.train.seed, "clips", place.stage, place.stage_step))
        first, last = stage.clip_share, stage.clip_share_end
        done = place.stage_step / max(stage.train.steps - 1, 1)
        return float(coin) < (first if last is None else first + (last - first) * done)

    def _next(self, place: Place, stage: Stage, on_clips: bool) -> Batch:
        """A micro-batch. Photographs and clips move on together, whichever of them the step is on."""
        count, rank = stage.train.batch, self.accelerator.process_index
        position, unmasked = place.position + rank * count, self.recipe.data.unmasked
        if on_clips and self.clips is not None:
            drawn = self.clips.bank.draw(position // count * stage.clips, stage.clips, place.generator)
            images = self.clips.images[drawn.rows].to(self.backbone.device)
            return replace(self._batch(drawn, place), motion=True, images=images)
        batch = self._batch(self.bank.draw(position, count, place.generator, unmasked), place)
        if self.prior is not None and stage.class_images:
            batch = replace(batch, prior=self._batch(self.prior.draw(position, count, place.generator), place))
        return replace(batch, identity=self.identity) if stage.rewarded else batch

    def _batch(self, drawn: Draw, place: Place) -> Batch:
        device = self.backbone.device
        return Batch(
            latents=drawn.latents.to(device), masks=drawn.masks.to(device), captions=drawn.captions,
            references=drawn.references.to(device) if drawn.references is not None else None,
            entities=drawn.entities, generator=drawn.generator or place.generator,
        )  # fmt: skip

    def _descend(self, place: Place, t: Train) -> None:
        learning = _learning(place)
        if self.accelerator.num_processes > 1:
            for parameter in learning:
                if parameter.grad is not None:
                    parameter.grad = cast("Tensor", self.accelerator.reduce(parameter.grad, reduction="mean"))
        if t.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(learning, t.max_grad_norm)
        place.optimizer.step()
        place.optimizer.zero_grad()
        # Half precision drops a step whose gradients overflowed; the learning rate waits for it.
        if not place.optimizer.step_was_skipped:
            place.scheduler.step()

    def _note(self, place: Place, stage: Stage, loss: float, parts: Mapping[str, float]) -> None:
        self.run.append(
            {
                "step": place.step, "stage": stage.name, "loss": loss, "parts": dict(parts),
                "learning_rate": place.scheduler.get_last_lr()[0],
                "seconds": round(time.perf_counter() - place.started, 3),
            }
        )  # fmt: skip
        self.tell(
            Progress(
                phase="learn", step=place.step, total=self.total, stage=stage.name, loss=loss, parts=parts,
                run=self.run.folder,
            )
        )  # fmt: skip

    def _save(self, place: Place, t: Train) -> None:
        own = random_state(place.generator)
        rng = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
        if self.main:
            scaler = self.accelerator.scaler
            state = Checkpoint(
                step=place.step, stage=place.stage, stage_step=place.stage_step, position=place.position,
                weights=self.method.state_dict(), optimizer=place.optimizer.state_dict(),
                scheduler=place.scheduler.state_dict(), scaler=scaler.state_dict() if scaler else {}, rng=rng,
            )  # fmt: skip
            self.run.save_checkpoint(state, t.keep_checkpoints)
            self.tell(Progress(phase="save", step=place.step, total=self.total, run=self.run.folder))

    def _film(self, place: Place) -> None:
        """A preview, if one is due. Its own generator and restored states leave the run's bits as they would be."""
        if self.preview is None or not self.main or place.step % max(1, self.preview.every):
            return
        before, home = random_state(place.generator), self.run.folder
        self.method.eval()
        sample = self.preview.sample or self.recipe.sample or self.backbone.sample
        picture, entity = self.beside or (None, "")
        request = Request(
            prompt=self.preview.prompt, sample=sample, negative=sample.negative, reference=picture, entity=entity,
            generator=torch.Generator().manual_seed(self.preview.seed),
            on_step=lambda done, total: self.tell(Progress(phase="preview", step=done, total=total, run=home)),
        )  # fmt: skip
        with torch.no_grad():
            pixels = self.backbone.decode_video(self.method.generate(self.backbone, request))
        frames = pixels[:, :, :: max(1, pixels.shape[2] // SHEET)][:, :, :SHEET]
        self.run.previews.mkdir(exist_ok=True)
        path = self.run.previews / f"step-{place.step:06d}.png"
        write_image(path, contact_sheet(frames))
        set_random_state(before, place.generator)
        self.tell(Progress(phase="preview", step=sample.steps, total=sample.steps, preview=path, run=self.run.folder))

    def _judge(self, place: Place, stage: Stage) -> None:
        """Films of a checkpoint, scored, if they are due. They leave the run's bits as they would be."""
        if self.chooser is None or not self.main or not self.chooser.due(place.step):
            return
        before, home = random_state(place.generator), self.run.folder
        tell = guarded(self.tell, self.stop, self.run, "filming a checkpoint")
        about = {"stage": stage.name, "seconds": round(time.perf_counter() - place.started, 3)}
        try:
            trial = self.chooser.film(
                place.step, about, self.method.state_dict(), self.backbone,
                lambda done, total: tell(Progress(phase="validate", step=done, total=total, run=home)), self.identity,
            )  # fmt: skip
        finally:
            set_random_state(before, place.generator)
        note = f"step {trial.step}: {trial.verdict}"
        for said in (note, *alarms(self.chooser.trials)):
            self.tell(Progress(phase="validate", step=1, total=1, note=said, run=home))


def _finite(parameters: Sequence[Tensor]) -> bool:
    return all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)


def _learning(place: Place) -> list[Tensor]:
    """The parameters that the stage trains."""
    return [p for group in place.optimizer.param_groups for p in group["params"]]


def _schedule(optimizer: torch.optim.Optimizer, t: Train) -> Any:
    try:
        return get_scheduler(t.schedule, optimizer, num_warmup_steps=t.warmup, num_training_steps=t.steps)
    except ValueError as error:
        raise StarringError(
            f"There is no learning-rate schedule '{t.schedule}' ({error}). Use constant or cosine."
        ) from error
