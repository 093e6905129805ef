"""CustomVideoX under what makes a step cheaper: compiled blocks, and diffusers' caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, attention_backend
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from benchmarks.cases.composed import attention_batches, caches, whole_graphs
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.layers import kernels
from starring.methods.base import Method, Plain, PlainConfig, Request
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig
from tests.tiny import tiny_cogvideox

CONFIG = CustomVideoXConfig(rank=4)
BLOCKS, STEPS = 5, 8


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """More blocks than the stock network has kinds of."""
    backbone = load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("deep")), device="cpu")
    config: dict[str, Any] = {k: v for k, v in backbone.denoiser.config.items() if k[0] != "_"}  # type: ignore[operator]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone.denoiser = (
            CogVideoXTransformer3DModel(**(config | {"num_layers": BLOCKS})).eval().requires_grad_(False)
        )
    return backbone


def made(backbone: Backbone, config: CustomVideoXConfig) -> CustomVideoX:
    method, generator = CustomVideoX(backbone, config), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return method


def request_of(backbone: Backbone, **sample: Any) -> Request:
    picture = torch.randn(1, *backbone.latent_shape(1, 32, 32), generator=torch.Generator().manual_seed(4))
    return Request(
        prompt="a red robot running on the beach", entity="robot", reference=picture,
        sample=replace(backbone.sample, steps=STEPS, guidance=6.0, **sample),
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does, of Functions
@pytest.mark.parametrize("form", ["joint", "cached"])
@pytest.mark.parametrize("options", [{}, {"erae_over": "layers"}], ids=str)
def test_compiled_blocks_are_one_graph_a_kind_whatever_the_timestep(
    deep: Backbone, form: str, options: dict[str, Any]
) -> None:
    """P15: no break, no graph for a single block, none for another timestep."""
    method, request = made(deep, replace(CONFIG, form=form, **options)), request_of(deep)
    x = torch.randn(2, *deep.latent_shape(9, 32, 32), generator=torch.Generator().manual_seed(3))
    text = deep.encode_text(["", request.prompt])
    counter, graphs, films = CompileCounter(), list[int](), dict[bool, list[Tensor]]()

    def steps(tell: Callable[[], None] = lambda: None) -> list[Tensor]:
        found: list[Tensor] = []
        with method.attached(deep), torch.no_grad():
            for t in (900, 700, 500, 321, 40):
                found.append(method.predict(deep, x, torch.tensor(t), text, request))
                tell()
        return found

    films[False] = steps()
    with whole_graphs(deep.denoiser, counter):
        films[True] = steps(lambda: graphs.append(counter.frame_count))
    for fast, slow in zip(films[True], films[False], strict=True):
        torch.testing.assert_close(fast, slow)
    plain = CompileCounter()
    with whole_graphs(deep.denoiser, plain), torch.no_grad():
        deep.predict(x, torch.tensor(900), text)
    assert plain.frame_count < BLOCKS
    # As many as the stock network's own blocks make; reading the reference is another kind of call.
    assert graphs == [plain.frame_count * (2 if form == "cached" else 1)] * 5


def called(backbone: Backbone, method: Method, request: Request) -> tuple[list[int], Tensor]:
    """The batches of attention's calls, and the film."""
    with attention_batches() as seen:
        return seen, method.generate(backbone, request)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # within torch's own Fourier transform
@pytest.mark.parametrize("which", ["pyramid attention broadcast", "faster cache", "first block cache", "taylorseer"])
@pytest.mark.parametrize("options", [{"form": "joint"}, {"form": "cached"}, {"form": "cached", "guided": "positive"}])
def test_diffusers_caches_save_what_they_save_of_the_stock_network(
    deep: Backbone, which: str, options: dict[str, str]
) -> None:
    """P16: as many calls of attention, of equal batches, and nothing is left over for the next film."""
    config: Any = replace(CONFIG, **options)  # type: ignore[arg-type]
    method, plain = made(deep, config), Plain(deep, PlainConfig(class_word="robot"))
    whole, exact = called(deep, method, request_of(deep))
    assert whole == [2] * BLOCKS * STEPS
    network: Any = deep.denoiser
    network.enable_cache(caches(deep)[which])
    try:
        stock, _ = called(deep, plain, request_of(deep))
        ours, film = called(deep, method, request_of(deep))
        _, again = called(deep, method, request_of(deep))
    finally:
        network.disable_cache()
    assert ours == stock
    assert len(stock) < len(whole) or stock != whole, "the cache saves something"
    assert film.shape == exact.shape
    assert film.isfinite().all()
    assert torch.equal(film, again)
    assert torch.equal(called(deep, method, request_of(deep))[1], exact)


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_a_chosen_attention_backend_is_honoured(deep: Backbone, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P14: under both biases, chosen for the layers or for everything; and a kernel that cannot is refused."""
    method, request = made(deep, replace(CONFIG, form=form)), request_of(deep)
    short = replace(request, sample=replace(request.sample, steps=1))
    again = replace(short, generator=torch.Generator().manual_seed(5))
    written: list[int] = []
    original = kernels.FORMULA

    def watched(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
        written.append(len(q))
        return original.forward(q, k, v)

    monkeypatch.setattr(kernels, "FORMULA", kernels.Kernel(watched, original.backward))
    usual = method.generate(deep, short)
    assert not written
    with attention_backend("_native_math"):
        torch.testing.assert_close(method.generate(deep, again), usual, rtol=1e-3, atol=1e-4)
    assert len(written) == 3 * BLOCKS, "text, film and reference apart, in every layer"
    written.clear()
    network: Any = deep.denoiser
    active = _AttentionBackendRegistry._active_backend  # choosing for layers chooses for the process as well
    try:
        with method.attached(deep), torch.no_grad():
            network.set_attention_backend("_native_math")
            text = deep.encode_text(request.prompt)
            method.predict(deep, torch.randn(1, *deep.latent_shape(9, 32, 32)), torch.tensor(500), text, request)
    finally:
        network.reset_attention_backend()
        _AttentionBackendRegistry._active_backend = active
    assert len(written) == 3 * BLOCKS
