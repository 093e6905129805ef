"""RAFT, recurrent all-pairs field transforms for optical flow (Teed and Deng, arXiv 2003.12039), inference only.

Written from the paper, with the parameter names of the released checkpoints (``raft-things.pth`` and its siblings), so
that those load as they are. Legend: ``p`` pair of frames, ``H W`` frame size, ``h w`` = H/8 W/8, ``L`` pyramid level.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, pad, unfold

from starring.errors import StarringError
from starring.perception.loading import fingerprint

LEVELS = 4
"""Levels of the correlation pyramid (section 3.2)."""
RADIUS = 4
"""Correlations are read within this many cells around each pixel's target (section 3.2)."""
HIDDEN = 128
"""Channels of the recurrent state, and of the context beside it (section 3.3)."""


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, width_in: int, width: int, norm: type[nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.norm3 = norm(width)
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        """``p c H W`` to ``p width H/stride W/stride``."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Encoder(nn.Module):
    """Features at an eighth of the resolution (section 3.1)."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.norm1 = norm(64)
        self.layer1 = nn.Sequential(Residual(64, 64, norm, 1), Residual(64, 64, norm, 1))
        self.layer2 = nn.Sequential(Residual(64, 96, norm, 2), Residual(96, 96, norm, 1))
        self.layer3 = nn.Sequential(Residual(96, 128, norm, 2), Residual(128, 128, norm, 1))
        self.conv2 = nn.Conv2d(128, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``p 3 H W`` in [-1, 1] to ``p width h w``."""
        x = self.norm1(self.conv1(x)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations and the flow so far, as features for the update (section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, HIDDEN - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """Flow ``p 2 h w`` and correlations ``p 324 h w`` to ``p 128 h w``."""
        seen = self.convc2(self.convc1(correlation).relu()).relu()
        moved = self.convf2(self.convf1(flow).relu()).relu()
        return torch.cat([self.conv(torch.cat([seen, moved], 1)).relu(), flow], 1)


class Recurrence(nn.Module):
    """A gated recurrent unit with 1x5 and then 5x1 convolutions (section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        for index, (kernel, padding) in enumerate((((1, 5), (0, 2)), ((5, 1), (2, 0))), start=1):
            for gate in "zrq":
                self.add_module(f"conv{gate}{index}", nn.Conv2d(3 * HIDDEN, HIDDEN, kernel, padding=padding))

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """State ``p 128 h w`` and input ``p 256 h w`` to the next state."""
        for index in (1, 2):
            both = torch.cat([state, x], 1)
            keep = self._conv("z", index, both).sigmoid()
            reset = self._conv("r", index, both).sigmoid()
            new = self._conv("q", index, torch.cat([reset * state, x], 1)).tanh()
            state = (1 - keep) * state + keep * new
        return state

    def _conv(self, gate: str, index: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"conv{gate}{index}")(x)


class FlowHead(nn.Module):
    """The step that the state asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """``p 128 h w`` to ``p 2 h w``."""
        return self.conv2(self.conv1(state).relu())


class Update(nn.Module):
    """One step of the iterative refinement (section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = Recurrence()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))

    def forward(self, state: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """The next state ``p 128 h w`` and the change of the flow ``p 2 h w``."""
        moved = self.encoder(flow, correlation)
        state = self.gru(state, torch.cat([context, moved], 1))
        return state, self.flow_head(state)


class RAFT(nn.Module):
    """The full-size network, 5.3 M parameters: flow between pairs of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(256, nn.InstanceNorm2d)
        self.cnet = Encoder(2 * HIDDEN, nn.BatchNorm2d)
        self.update_block = Update()

    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        """Displacements from the first frames to the second.

        Args:
            first: ``p 3 H W`` in [-1, 1], sides multiples of 8 and at least 128.
            second: likewise.
            iterations: refinement steps (20 in VBench and in the released evaluation on Sintel's training half).

        Returns:
            ``p 2 H W`` in pixels.
        """
        pyramid = correlations(*self.fnet(torch.cat([first, second])).chunk(2))
        state, context = self.cnet(first).split(HIDDEN, dim=1)
        state, context = state.tanh(), context.relu()
        here = cells(state)
        flow = torch.zeros_like(here)
        for _ in range(iterations):
            state, step = self.update_block(state, context, looked_up(pyramid, here + flow), flow)
            flow = flow + step
        return enlarged(flow, 0.25 * self.update_block.mask(state))


def cells(like: Tensor) -> Tensor:
    """Each cell's own position, ``p 2 h w`` (x, y)."""
    count, _, height, width = like.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=like.device), torch.arange(width, device=like.device), indexing="ij"
    )
    return torch.stack([x, y]).to(like)[None].expand(count, -1, -1, -1)


def correlations(first: Tensor, second: Tensor) -> list[Tensor]:
    """All-pairs correlations and their averages (section 3.2, eq. 1).

    Args:
        first: features ``p d h w``.
        second: features ``p d h w``.

    Returns:
        ``p*h*w 1 h/2^L w/2^L`` for each level.
    """
    count, depth, height, width = first.shape
    volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / depth**0.5
    pyramid = [volume.reshape(count * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(avg_pool2d(pyramid[-1], 2, 2))
    return pyramid


def looked_up(pyramid: list[Tensor], targets: Tensor) -> Tensor:
    """Correlations in a window around each target, bilinear, zero outside (section 3.2, *Correlation lookup*).

    Args:
        pyramid: of :func:`correlations`.
        targets: positions in the second frame, ``p 2 h w`` (x, y).

    Returns:
        ``p 324 h w``: by level, then by x offset, then by y offset, as the released weights expect.
    """
    count, _, height, width = targets.shape
    reach = torch.arange(-RADIUS, RADIUS + 1, device=targets.device, dtype=targets.dtype)
    offsets = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)
    centres = targets.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    read: list[Tensor] = []
    for level, volume in enumerate(pyramid):
        size = torch.tensor([volume.shape[-1], volume.shape[-2]], device=targets.device, dtype=targets.dtype)
        positions = centres / 2**level + offsets
        window = grid_sample(volume, 2 * positions / (size - 1) - 1, align_corners=True)
        read.append(window.reshape(count, height, width, -1))
    return torch.cat(read, dim=-1).permute(0, 3, 1, 2)


def enlarged(flow: Tensor, mask: Tensor) -> Tensor:
    """Eight times the resolution, each fine pixel a convex combination of nine coarse ones (section 3.3).

    Args:
        flow: ``p 2 h w`` in cells.
        mask: logits of the combinations, ``p 9*8*8 h w``.

    Returns:
        ``p 2 8h 8w`` in pixels.
    """
    count, _, height, width = flow.shape
    weights = mask.reshape(count, 1, 9, 8, 8, height, width).softmax(dim=2)
    neighbours = unfold(8 * flow, 3, padding=1).reshape(count, 2, 9, 1, 1, height, width)
    fine = (weights * neighbours).sum(dim=2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(count, 2, 8 * height, 8 * width)


class RAFTFlow:
    """RAFT as an estimator for films: ``f 3 H W`` in [0, 1] to ``f-1 2 H W`` in pixels."""

    smallest = 128
    """Side that the pyramid's top level needs; smaller frames are padded by repeating their border."""

    def __init__(self, network: RAFT, name: str = "raft", iterations: int = 20) -> None:
        """Keep the network, frozen.

        Args:
            network: with its weights.
            name: which weights, part of :attr:`protocol`.
            iterations: refinement steps.
        """
        self.network = network.eval().requires_grad_(False)
        self.iterations = iterations
        self._id = f"{name}@{fingerprint(network)}"

    @property
    def protocol(self) -> str:
        """Weights and iterations."""
        return f"raft({self._id}, {self.iterations} iterations)"

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Displacements between neighbouring frames, one pair at a time since the correlation volume is large."""
        height, width = frames.shape[-2:]
        if len(frames) < 2:
            return frames.new_zeros(0, 2, height, width)
        rows, columns = (max(-(-side // 8) * 8, self.smallest) - side for side in (height, width))
        top, left = rows // 2, columns // 2
        device = next(self.network.parameters()).device
        padded = pad(frames.to(device).float() * 2 - 1, (left, columns - left, top, rows - top), mode="replicate")
        pairs = [
            self.network(padded[i : i + 1], padded[i + 1 : i + 2], self.iterations) for i in range(len(frames) - 1)
        ]
        return torch.cat(pairs)[..., top : top + height, left : left + width].cpu()


def load_raft(path: str | Path, *, device: torch.device | str = "cpu", iterations: int = 20) -> RAFTFlow:
    """RAFT with weights from a file.

    Args:
        path: a released checkpoint such as ``raft-things.pth``, or the same tensors as ``.safetensors``.
        device: where to run it.
        iterations: refinement steps.

    Raises:
        StarringError: if the file is missing or holds other tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise StarringError(f"There is no RAFT checkpoint at {file}. Leave it out to use DIS, which needs no file.")
    state = {key.removeprefix("module."): value for key, value in _tensors(file).items()}
    network = RAFT()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StarringError(
            f"{file} does not hold the full-size RAFT (raft-things.pth or a sibling); the small model is not supported."
        ) from error
    return RAFTFlow(network.to(device), name=file.stem, iterations=iterations)


def _tensors(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(file))
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise StarringError(f"{file} is not a checkpoint that torch can read.") from error
