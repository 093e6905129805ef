"""One resumable training loop for all of the miniature's networks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starring.miniature.muon import Muon

Loss = Callable[[np.random.Generator, float], Mapping[str, Tensor]]
"""From a step's own random generator and the share of training done (0 to 1) to named losses; ``loss`` is minimised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How one network is trained."""

    steps: int
    lr: float
    batch: int
    warmup: int = 100
    decay: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    muon: bool = False
    """Orthogonalise the updates of inner weight matrices (Muon); the rest stays with AdamW."""
    bf16: bool = False
    """Compute in bfloat16 (autocast), weights and their updates in float32; pays where the hardware has it."""
    save_every: float = 90.0
    """Seconds between saved states."""


def rate(plan: Plan, step: int) -> float:
    """The learning rate: warm-up, a long constant part, a linear end."""
    left = (plan.steps - step) / max(plan.decay * plan.steps, 1)
    return plan.lr * min(1.0, (step + 1) / plan.warmup, max(left, 0.0))


class Trainer:
    """Trains modules in place and keeps an exponential average of their weights.

    The state lies in ``folder`` (safetensors and JSON, replaced atomically); a new trainer on the same folder goes on
    where the last one was saved. Each step's randomness depends on the step alone, so a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(self, folder: Path, modules: Mapping[str, nn.Module], plan: Plan, device: str = "cpu") -> None:
        self.folder, self.plan, self.device = folder, plan, torch.device(device)
        self.modules = nn.ModuleDict(modules).to(self.device)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        inner = {id(p) for name, p in self.modules.named_parameters() if plan.muon and _inner(name, p)}
        wide = [p for p in self.parameters if p.ndim > 1 and id(p) not in inner]
        thin = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": wide, "weight_decay": plan.weight_decay}, {"params": thin, "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), eps=1e-8, foreach=True)
        ]
        # Muon takes matrices; a convolution is one matrix from all inputs of a place to its outputs.
        self.flat = [(p, nn.Parameter(p.detach().view(p.shape[0], -1))) for p in self.parameters if id(p) in inner]
        if self.flat:
            matrices = [matrix for _, matrix in self.flat]
            self.optimizers.append(Muon(matrices, lr=plan.lr, weight_decay=plan.weight_decay))
        self.average = {name: value.detach().clone() for name, value in self.modules.state_dict().items()}
        self.step = 0
        self.history: list[dict[str, float]] = []
        if (folder / "state.safetensors").exists():
            self._load()

    def run(
        self,
        loss: Loss,
        until: int | None = None,
        seconds: float = math.inf,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train to the plan's end, to step ``until``, or for ``seconds``, whichever comes first.

        ``on_step`` hears the steps done and the steps planned.
        """
        end = min(self.plan.steps, until or self.plan.steps)
        started = saved = time.monotonic()
        sums: dict[str, float] = {}
        count = 0
        while self.step < end and time.monotonic() - started < seconds:
            values = self._advance(loss)
            sums = {name: sums.get(name, 0.0) + values[name] for name in values}
            count += 1
            if on_step is not None:
                on_step(self.step, self.plan.steps)
            if time.monotonic() - saved > self.plan.save_every or self.step == end:
                row = {name: total / count for name, total in sums.items()}
                row |= {"step": self.step, "per_step": (time.monotonic() - saved) / count}
                self.history.append(row)
                self._save()
                sums, count, saved = {}, 0, time.monotonic()
        self._save()

    def start(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Begin from trained tensors, by module; modules that ``tensors`` does not name stay as they are."""
        for name, state in tensors.items():
            self.modules[name].load_state_dict(state)
        self.average = {name: value.detach().clone() for name, value in self.modules.state_dict().items()}

    def averaged(self) -> nn.ModuleDict:
        """Put the averaged weights into the modules and return them, ready for use."""
        self.modules.load_state_dict(self.average)
        return self.modules.eval()

    def _advance(self, loss: Loss) -> dict[str, float]:
        self.modules.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(self.plan, self.step)
        torch.manual_seed(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bf16):
            values = loss(np.random.default_rng([7, self.step]), self.step / self.plan.steps)
        values["loss"].backward()
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip, foreach=True)
        for p, matrix in self.flat:
            matrix.grad = None if p.grad is None else p.grad.view_as(matrix)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.modules.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.modules.state_dict()
            floats = [name for name in state if state[name].is_floating_point()]
            torch._foreach_lerp_([self.average[n] for n in floats], [state[n] for n in floats], 1 - keep)  # pyright: ignore
        return {name: float(value.detach()) for name, value in values.items()}

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v.contiguous() for k, v in self.modules.state_dict().items()}
        tensors |= {f"average.{k}": v.contiguous() for k, v in self.average.items()}
        for name, state in self._states():
            tensors |= {f"{name}.{key}": value.detach() for key, value in state.items()}
        meta = {"step": str(self.step), "history": json.dumps(self.history)}
        partial = self.folder / "state.partial"
        save_file({k: v.clone() for k, v in tensors.items()}, partial, metadata=meta)
        partial.replace(self.folder / "state.safetensors")
        (self.folder / "log.json").write_text(json.dumps(self.history, indent=1))

    def _load(self) -> None:
        from safetensors import safe_open

        path = self.folder / "state.safetensors"
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        tensors = load_file(path, device=str(self.device))
        self.step, self.history = int(meta["step"]), json.loads(meta["history"])
        self.modules.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.average = {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
        for name, state in self._states():
            state.update({k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")})

    def _states(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Each parameter's optimizer state under a name that does not change between runs."""
        for o, optimizer in enumerate(self.optimizers):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, p in enumerate(parameters):
                yield f"optimizer.{o}.{index}", optimizer.state[p]


def _inner(name: str, p: Tensor) -> bool:
    edges = ("embed", "conv_in", "conv_out", "time_", "pos_", "shared", "relative_attention_bias")
    return p.ndim > 1 and not any(edge in name for edge in edges)
