"""What goes on comes off, exactly."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.layers.attach import branch, frozen, lend, swap
from starring.layers.branches import Bottleneck, LowRank


def output(backbone: Backbone) -> Tensor:
    x = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.predict(x, torch.tensor(500), backbone.encode_text("a dog"))


@contextmanager
def branched(backbone: Backbone) -> Iterator[None]:
    with ExitStack() as stack:
        for site in backbone.sites("feedforward").values():
            stack.enter_context(branch(site, lambda out, *_: out * 1.5))
        yield


def swapped(backbone: Backbone) -> AbstractContextManager[None]:
    class Louder(nn.Module):
        """A processor with a weight, which must not leak into the backbone."""

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))
            self.inner = AttnProcessor()

        def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            return self.gain * self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    return swap(backbone.sites("cross"), lambda name, site, former: Louder())


def lent(backbone: Backbone) -> AbstractContextManager[None]:
    return lend(backbone.denoiser, {"conv_in.weight": torch.ones_like(backbone.denoiser.conv_in.weight)})


@pytest.mark.parametrize("attach", [branched, swapped, lent])
def test_on_and_off_bit_for_bit(tiny: Backbone, attach: Callable[[Backbone], AbstractContextManager[None]]) -> None:
    before = output(tiny)
    state = {key: value.clone() for key, value in tiny.denoiser.state_dict().items()}
    insides = {name: dict(vars(m)) for name, m in tiny.denoiser.named_modules()}
    with attach(tiny):
        changed = output(tiny)
        assert not torch.equal(changed, before)
        assert list(tiny.denoiser.state_dict()) == list(state)
        assert all(torch.equal(value, state[key]) for key, value in tiny.denoiser.state_dict().items())
        with attach(tiny):
            output(tiny)
        assert torch.equal(output(tiny), changed)
    assert torch.equal(output(tiny), before)
    with pytest.raises(RuntimeError, match="on purpose"), attach(tiny):
        raise RuntimeError("on purpose")
    assert torch.equal(output(tiny), before)
    after = {name: vars(m) for name, m in tiny.denoiser.named_modules()}
    for name, inside in insides.items():
        assert inside.keys() == after[name].keys()
        for key, value in inside.items():
            same = after[name][key] is value or after[name][key] == value
            assert same, f"{name}.{key} was left changed"


def test_a_branch_sees_what_the_site_was_called_with() -> None:
    class Site(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return x * scale

    seen: list[tuple[Tensor, float]] = []

    def add(out: Tensor, x: Tensor, *, scale: float) -> Tensor:
        seen.append((x, scale))
        return out + 1

    site, x = Site(), torch.ones(2)
    with branch(site, add), branch(site, lambda out, *_, **__: out * 10):
        assert torch.equal(site(x, scale=3.0), torch.full((2,), 40.0))
    assert seen == [(x, 3.0)]


def test_branches_give_equal_gradients_under_checkpointing(tiny: Backbone) -> None:
    site = next(iter(tiny.sites("feedforward").values()))
    width = site.net[0].proj.in_features
    side = Bottleneck(width, 4)
    nn.init.normal_(side.up.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0))

    def gradients(through: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with branch(site, lambda out, hidden, *_: out + side(hidden)):
            return list(torch.autograd.grad(through(x).square().sum(), list(side.parameters())))

    plain = gradients(site)
    recomputed = gradients(lambda x: checkpoint(site, x, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_swap_hands_over_name_site_and_former_processor(tiny: Backbone) -> None:
    sites = tiny.sites("spatial")
    seen: dict[str, tuple[nn.Module, object]] = {}

    def make(name: str, site: nn.Module, former: object) -> object:
        seen[name] = (site, former)
        return former

    with swap(sites, make):
        pass
    assert {name: site for name, (site, _) in seen.items()} == sites
    assert all(former is site.processor for site, former in seen.values())
    with pytest.raises(StarringError, match="without an attention processor"), swap([nn.Linear(1, 1)], make):
        pass


def test_lending_carries_gradient_and_refuses_misfits() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False))
    network.eval()
    own = network[0].weight
    given = torch.eye(2, requires_grad=True)
    with lend(network, {"0.weight": given * 3, "1.running_mean": torch.ones(2)}):
        network(torch.ones(1, 2)).sum().backward()
    assert given.grad is not None
    assert own.grad is None
    assert network[0].weight is own
    assert torch.equal(network[1].running_mean, torch.zeros(2))
    for name, says in (("0.weigth", "no parameter"), ("7.weight", "no part '7'")):
        with pytest.raises(StarringError, match=says), lend(network, {name: given}):
            pass
    with pytest.raises(StarringError, match="shape"), lend(network, {"0.weight": torch.ones(3)}):
        pass


def test_frozen_and_back() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    network[0].bias.requires_grad_(False)
    network[1].eval()
    with pytest.raises(RuntimeError), frozen(network):  # noqa: PT012 (the context is the test)
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(m.training for m in network.modules())
        raise RuntimeError
    assert network[0].weight.requires_grad
    assert not network[0].bias.requires_grad
    assert network.training
    assert network[0].training
    assert not network[1].training


def test_fresh_branches_add_nothing_and_mean_what_they_say() -> None:
    x = torch.randn(3, 6)
    assert torch.equal(LowRank(6, 4, 2)(x), torch.zeros(3, 4))
    assert torch.equal(Bottleneck(6, 2)(x), torch.zeros(3, 6))
    linear = nn.Linear(6, 4)
    side = LowRank.beside(linear, 2, alpha=1.0)
    nn.init.normal_(side.up.weight)
    with branch(linear, lambda out, x: out + side(x)):
        together = linear(x)
    torch.testing.assert_close(together, nn.functional.linear(x, linear.weight + side.delta(), linear.bias))
    assert side(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(StarringError, match="rank"):
        LowRank(1, 1, 0)
