"""CustomVideoX at the size of CogVideoX-5B: its adapter, its cache, and one block against a dense mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from starring.backbones.base import Reference, Text
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.positions import film_rows
from starring.layers.branches import LowRank
from starring.layers.reference import ReferenceAttention, View
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig

Adapters = dict[str, LowRank]


def on_meta() -> CogVideoX:
    """The transformer of CogVideoX-5B without any weights, in half precision."""
    with torch.device("meta"):
        net = CogVideoXTransformer3DModel(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True)
    backbone = CogVideoX.__new__(CogVideoX)
    backbone.denoiser, backbone.name, backbone.family = net.to(torch.bfloat16), "cogvideox-5b", "cogvideox"
    backbone._device = None
    return backbone


@pytest.mark.slow
def test_the_adapter_has_the_papers_size() -> None:
    method = CustomVideoX(on_meta())
    assert sum(p.numel() for p in method.parameters()) == 132_120_576


@pytest.mark.slow
def test_the_cache_of_one_picture_is_counted() -> None:
    """A 480x720 picture through all blocks: keys and values that the layers keep."""
    backbone = on_meta()
    method = CustomVideoX(backbone, CustomVideoXConfig(form="cached"))
    picture = torch.empty(1, 16, 1, 60, 90, device="meta")
    words = Text(embeddings=torch.empty(1, 1, 4096, device="meta"), ids=torch.zeros(1, 1))
    with method.attached(backbone), torch.no_grad():
        method._view = View(form="read")
        backbone.read_reference(Reference(latents=picture), words, 7)
        kept = [part for layer in method._attached for part in layer.kept or ()]
    assert len(kept) == 2 * 42
    assert {tuple(part.shape) for part in kept} == {(1, 48, 1350, 64)}
    assert sum(part.nbytes for part in kept) / 2**30 == pytest.approx(0.65, abs=0.005)


class Masked:
    """Joint attention as one softmax with a dense mask, both biases written into it."""

    def __init__(self, adapters: Adapters, view: View, own: int, apart: bool) -> None:
        self.adapters, self.view, self.own, self.apart = adapters, view, own, apart

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        words, x, own = encoder_hidden_states.shape[1], torch.cat([encoder_hidden_states, hidden_states], 1), self.own

        def changed(which: str, layer: Any, x: Tensor) -> Tensor:
            change = self.adapters[which]
            low_rank = x[:, -own:] @ (change.up.weight @ change.down.weight).T
            return torch.cat([layer(x)[:, :-own], layer(x)[:, -own:] + low_rank], 1)

        q, k, v = (
            changed(which, getattr(attn, which), x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for which in ("to_q", "to_k", "to_v")
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        for part in (q, k):
            part[:, :, words:] = apply_rotary_emb(part[:, :, words:], image_rotary_emb)
        mask = torch.zeros(x.shape[1], x.shape[1])
        mask[words:-own, -own:] = self._bias(q[:, :, words:-own], k[:, :, :words])[:, None]
        if self.apart:
            mask[-own:, :-own] = -torch.inf
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        out = changed("to_out", attn.to_out[0], out)
        return out[:, words:], out[:, :words]

    def _bias(self, q: Tensor, k: Tensor) -> Tensor:
        """Equations 6 to 8 for one film, ``n``."""
        assert self.view.columns is not None
        assert self.view.time is not None
        share = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)[0, :, :, self.view.columns]
        frames = share.sum(-1).mean(0).view(self.view.frames, -1)
        low, high = frames.amin(1, keepdim=True), frames.amax(1, keepdim=True)
        region = ((frames - low) / (high - low) > self.view.threshold).flatten().float()
        return self.view.time + self.view.boost * region


@pytest.mark.slow
def test_a_block_in_both_forms_agrees_with_a_dense_mask() -> None:
    """One whole block, 3072 wide with 48 heads and random weights: norms, attention, feed-forward; both biases on."""
    torch.manual_seed(0)
    net = CogVideoXTransformer3DModel(
        num_attention_heads=48, num_layers=1, use_rotary_positional_embeddings=True, text_embed_dim=64,
        time_embed_dim=64, sample_width=12, sample_height=8, max_text_seq_length=6,
    ).eval()  # fmt: skip
    block: Any = net.transformer_blocks[0]
    attn = block.attn1
    layers = {"to_q": attn.to_q, "to_k": attn.to_k, "to_v": attn.to_v, "to_out": attn.to_out[0]}
    own = {name: LowRank.beside(layer, 128) for name, layer in layers.items()}
    for adapter in own.values():
        torch.nn.init.normal_(adapter.up.weight, std=0.02)
    cos, sin = film_rows(net.config, 3, 8, 12, torch.device("cpu"))
    text, video, clean, time = (torch.randn(1, *shape) for shape in ((6, 3072), (48, 3072), (24, 3072), (64,)))
    view = View(
        form="joint", frames=2, time=torch.tensor(-0.4), boost=0.5, columns=torch.tensor([2]), entity=torch.ones(1, 1)
    )
    current = [view]
    ours = ReferenceAttention(own, lambda: current[0], None)

    def through(processor: Any, tokens: Tensor, words: Tensor, start: int) -> Tensor:
        attn.processor = processor
        rows = cos[start : start + tokens.shape[1]], sin[start : start + tokens.shape[1]]
        return block(tokens, words, time, image_rotary_emb=rows)[0]

    both = torch.cat([video, clean], 1)
    with torch.no_grad():
        joint = through(ours, both, text, 0)
        torch.testing.assert_close(joint, through(Masked(own, view, 24, False), both, text, 0), rtol=1e-4, atol=1e-4)
        for bias in (-0.4, 0.1):  # the entity's region is neither nowhere nor everywhere
            current[0] = replace(view, boost=0.0, time=torch.tensor(bias))
            assert (through(ours, both, text, 0) - joint).abs().max() > 1e-3
        current[0] = View(form="read")
        through(ours, clean, text[:, :1], 48)
        current[0] = replace(view, form="cached")
        cached = through(ours, video, text, 0)
        dense = through(Masked(own, view, 24, True), both, text, 0)
        torch.testing.assert_close(cached, dense[:, :48], rtol=1e-4, atol=1e-4)
    assert (dense - joint)[:, 48:].abs().max() > 1e-3, "what the reference itself attends to is another thing"
