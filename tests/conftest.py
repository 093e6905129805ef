"""Fixtures shared by the suite."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from tests.tiny import tiny_animatediff, tiny_cogvideox

torch.set_num_threads(1)  # small tensors: more threads only wait for each other, and sums would depend on their number


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """Files are not forced to the disk: a process that is killed leaves them to the kernel, which stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests of one file share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny AnimateDiff pipeline on disk; do not write into it."""
    return tiny_animatediff(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Backbone:
    """The tiny backbone, loaded once and shared: leave it as you found it."""
    return load_backbone(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def _untouched(tiny_folder: Path) -> Backbone:
    return load_backbone(tiny_folder, device="cpu")


@pytest.fixture
def own_tiny(_untouched: Backbone) -> Backbone:
    """A tiny backbone of the test's own, to be changed at will."""
    return copy.deepcopy(_untouched)


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A random tiny CogVideoX, loaded once and shared: leave it as you found it."""
    return load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("dit")), device="cpu")
