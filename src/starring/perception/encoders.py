"""CLIP and DINO: pictures and sentences as unit vectors.

Pixels are ``b 3 H W`` in [0, 1] of any size; vectors are ``b d`` of length one. Parameters are frozen, gradients flow
to the pixels, so the same object measures a film and serves as a reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from starring.perception.loading import Frozen, bundled, load, locate, saved_settings, short
from starring.perception.transforms import Transform, as_tensor, clip_transform, dino_transform, variant

CLIPS: Mapping[str, str] = {
    "miniature": bundled("clip"),
    "clip-vit-base-patch32": "openai/clip-vit-base-patch32",
    "clip-vit-base-patch16": "openai/clip-vit-base-patch16",
    "clip-vit-large-patch14": "openai/clip-vit-large-patch14",
}
"""Names of CLIP models. DreamVideo's evaluation, which most papers follow, uses ViT-B/32; sizes differ in level."""
DINOS: Mapping[str, str] = {
    "miniature": bundled("dino"),
    "dino-vits16": "facebook/dino-vits16",
    "dino-vitb16": "facebook/dino-vitb16",
}
"""Names of DINO models. The papers use ViT-S/16; VBench's subject consistency uses ViT-B/16."""


class ImageEncoder(Protocol):
    """What a metric asks of an image encoder."""

    @property
    def id(self) -> str:
        """Where the network came from, and a fingerprint of its weights."""
        ...

    @property
    def protocol(self) -> str:
        """Network, weights and transform: numbers compare only where this is equal."""
        ...

    def images(self, pixels: Tensor) -> Tensor:
        """``b 3 H W`` in [0, 1] to unit vectors ``b d``."""
        ...


class PictureEncoder(ImageEncoder, Protocol):
    """One that reads photographs as well."""

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """PIL images, which may differ in size, to unit vectors ``b d``."""
        ...


class _Encoder(Frozen):
    """What both encoders share: batches, transform, identity."""

    kind: str
    network: nn.Module

    def __init__(self, network: nn.Module, transform: Transform, name: str, batch: int) -> None:
        super().__init__({"network": network})
        self.transform = transform
        self.name = name
        self.batch = batch

    @property
    def id(self) -> str:
        """Where the network came from, and a fingerprint of its weights."""
        return f"{self.name}@{self.weights_of('network')}"

    @property
    def protocol(self) -> str:
        """Network, weights and transform: numbers compare only where this is equal."""
        return f"{self.kind}({self.id}, {self.transform.id})"

    def images(self, pixels: Tensor) -> Tensor:
        """Unit vectors of images.

        Args:
            pixels: ``b 3 H W`` in [0, 1], any size; may require gradient.

        Returns:
            ``b d`` in float32, each of length one.

        Raises:
            StarringError: if the shape is not ``b 3 H W``.
        """
        chunks = [
            self._embed(self.transform(part.to(self.device).float()).to(self.dtype))
            for part in pixels.split(self.batch)
        ]
        return normalize(torch.cat(chunks).float(), dim=-1)

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors ``b d`` of PIL images, which may differ in size; no gradient."""
        with torch.no_grad():
            prepared = [self.transform(as_tensor(image).to(self.device)) for image in images]
            # Transforms without a crop keep proportions, so only pictures of one size share a pass.
            alike = [torch.cat(list(group)) for _, group in groupby(prepared, key=lambda picture: picture.shape)]
            vectors = [self._embed(part.to(self.dtype)) for some in alike for part in some.split(self.batch)]
            return normalize(torch.cat(vectors).float(), dim=-1)

    def _embed(self, prepared: Tensor) -> Tensor:
        raise NotImplementedError


class CLIP(_Encoder):
    """Text and images in one space (arXiv 2103.00020)."""

    kind = "clip"

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, transform: Transform, name: str = "clip", batch: int = 32
    ) -> None:
        """Keep what was given.

        Args:
            model: the network.
            tokenizer: the tokenizer it was trained with.
            transform: how images are prepared.
            name: where the network came from, part of :attr:`id`.
            batch: most images per forward pass.
        """
        super().__init__(model, transform, name, batch)
        self.tokenizer = tokenizer

    @property
    def context(self) -> int:
        """Most tokens of a text, start and end included (77 in OpenAI's models)."""
        return int(self._clip.config.text_config.max_position_embeddings)  # pyright: ignore

    @property
    def width(self) -> int:
        """Width of its vectors."""
        return int(self._clip.config.projection_dim)  # pyright: ignore

    def embeddings(self, images: Sequence[Image.Image], transform: Transform | None = None) -> Tensor:
        """Vectors ``b d`` of PIL images as they leave the network, of any length; no gradient.

        Args:
            images: pictures of any size.
            transform: how they are prepared, if not as usual.
        """
        prepare = transform or self.transform
        with torch.no_grad():
            prepared = [prepare(as_tensor(image).to(self.device)).to(self.dtype) for image in images]
            return torch.cat([self._embed(each) for each in prepared]).float()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``b d`` of texts, in float32. Longer texts are cut; :meth:`too_long` names them."""
        tokens = self._tokens(list(texts), truncation=True, max_length=self.context, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        features = self._clip.get_text_features(input_ids=ids, attention_mask=mask)
        return normalize(_pooled(features).float(), dim=-1)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those texts that do not fit the context and of which only the beginning is compared."""
        lengths = [len(ids) for ids in self._tokens(list(texts), truncation=False, verbose=False)["input_ids"]]
        return [text for text, length in zip(texts, lengths, strict=True) if length > self.context]

    @property
    def _clip(self) -> CLIPModel:
        return cast("CLIPModel", self.network)

    def _tokens(self, texts: list[str], **kwargs: Any) -> Any:
        return cast("Any", self.tokenizer)(texts, **kwargs)

    def _embed(self, prepared: Tensor) -> Tensor:
        return _pooled(self._clip.get_image_features(pixel_values=cast("Any", prepared)))


class DINO(_Encoder):
    """Self-supervised vision transformer: the class token after the last norm (arXiv 2104.14294)."""

    kind = "dino"

    def __init__(self, model: ViTModel, transform: Transform, name: str = "dino", batch: int = 32) -> None:
        """Keep what was given.

        Args:
            model: the network.
            transform: how images are prepared.
            name: where the network came from, part of :attr:`id`.
            batch: most images per forward pass.
        """
        super().__init__(model, transform, name, batch)

    def _embed(self, prepared: Tensor) -> Tensor:
        return self._hidden(prepared)[:, 0]

    def tokens(self, pixels: Tensor) -> Tensor:
        """All tokens after the last norm, ``b 1+n d`` (class token first), of ``b 3 H W`` in [0, 1]; differentiable."""
        parts = pixels.split(self.batch)
        return torch.cat(
            [self._hidden(self.transform(p.to(self.device).float()).to(self.dtype)) for p in parts]
        ).float()

    def _hidden(self, prepared: Tensor) -> Tensor:
        native = int(cast("Any", self.network).config.image_size)
        # Positions are interpolated only for transforms that leave another size than the network was trained with.
        other = tuple(prepared.shape[-2:]) != (native, native)
        return cast("Any", self.network)(pixel_values=prepared, interpolate_pos_encoding=other).last_hidden_state


def load_clip(
    name: str = "miniature",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int = 32,
    transform: str = "paper",
) -> CLIP:
    """CLIP by preset name, hub id or folder (``CLIPModel`` and ``CLIPTokenizer`` in transformers' layout).

    Args:
        name: a name in :data:`CLIPS`, a hub id, or a folder.
        device: where to put it; the CPU by default.
        dtype: precision of its weights.
        batch: most images per forward pass.
        transform: ``paper``, or VBench's deviation ``vbench-clip``.

    Raises:
        StarringError: if there is no such model or transform, or it cannot be loaded.
    """
    source = locate("CLIP model", name, CLIPS)
    prepared = variant(clip_transform(saved_settings(source)), transform)
    tokenizer = load("CLIP tokenizer", CLIPTokenizer, source)
    model = load("CLIP model", CLIPModel, source, dtype=dtype)
    return CLIP(cast("CLIPModel", _placed(model, device)), tokenizer, prepared, name=short(name, source), batch=batch)


def load_dino(
    name: str = "miniature",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int = 32,
    transform: str = "paper",
) -> DINO:
    """DINO by preset name, hub id or folder (``ViTModel`` in transformers' layout).

    Args:
        name: a name in :data:`DINOS`, a hub id, or a folder.
        device: where to put it; the CPU by default.
        dtype: precision of its weights.
        batch: most images per forward pass.
        transform: ``paper``, or one of the published deviations ``vbench`` and ``dreammatcher``.

    Raises:
        StarringError: if there is no such model or transform, or it cannot be loaded.
    """
    source = locate("DINO model", name, DINOS)
    prepared = variant(dino_transform(saved_settings(source)), transform)
    # The published checkpoint has no pooling layer; transformers would initialise one at random.
    model = load("DINO model", ViTModel, source, dtype=dtype, add_pooling_layer=False)
    return DINO(cast("ViTModel", _placed(model, device)), prepared, name=short(name, source), batch=batch)


def _placed(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    return model if device is None else model.to(device)


def _pooled(output: Any) -> Tensor:
    """Projected features: transformers 5 wraps them, earlier versions returned the tensor itself."""
    return output if isinstance(output, Tensor) else cast("Tensor", output.pooler_output)
