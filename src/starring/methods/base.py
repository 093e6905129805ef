"""What every paper's method answers, and the plain film that is the floor of all of them.

Legend: ``b`` batch, ``c`` channel, ``f`` latent frame, ``h w`` latent size, ``n`` text tokens, ``d`` text width.

A method is a small ``nn.Module``: its parameters are all that training changes and all that saving writes. The backbone
stays frozen and is passed into every call; a method never keeps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from starring.backbones.base import Backbone, Text
from starring.config import Recipe, Sample, to_json
from starring.diffusion.noise import gaussian_prior
from starring.diffusion.sampling import Step, partial, sample
from starring.errors import StarringError
from starring.perception.identity import Identity

PLACEHOLDER = "<*>"
"""What stands for the subject in captions and prompts."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One training batch, on the backbone's device."""

    latents: Tensor
    """Clean latents, ``b c f h w``, already scaled; ``f`` is 1 for photographs."""
    masks: Tensor | None = None
    """Where the subject is, ``b 1 f h w`` at latent resolution in [0, 1]; ``None`` means everywhere."""
    captions: list[str]
    """One caption for each sample, with the placeholder ``<*>`` where the subject is named."""
    generator: torch.Generator | None = None
    """The source of the loss's noise and timesteps; a CPU generator gives the same numbers on every device."""
    prior: Batch | None = None
    """Pictures of the class, made by the backbone itself, that it should go on making (prior preservation, arXiv
    2208.12242, eq. 2); there if the stage asks for them."""
    references: Tensor | None = None
    """Clean latents of pictures of each sample's subject, ``b c r h w``, for methods that learn from such pairs."""
    entities: list[str] | None = None
    """The word for each sample's subject in its caption, for the same methods."""
    identity: Identity | None = None
    """Eyes that know the subject; there if the stage is rewarded."""
    motion: bool = False
    """Whether these are clips of a motion and not pictures of the subject, for methods that learn both."""
    images: Tensor | None = None
    """Embeddings of a frame of each clip, ``b e``, by the image encoder that the method's options name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One film that is asked for."""

    prompt: str
    """The prompt, with ``<*>`` where the subject is named."""
    sample: Sample
    """Size, steps, guidance, speed."""
    negative: str | None = None
    """Negative prompt; ``None`` takes ``sample.negative``."""
    generator: torch.Generator | None = None
    """The source of the initial noise and of all noise after it."""
    noise: Tensor | None = None
    """Initial noise, ``1 c f h w`` with unit variance; drawn from ``generator`` when absent."""
    correlation: float | None = None
    """gamma of the 3D Gaussian noise prior (arXiv 2402.09368, eq. 4), in [0, 1); ``None`` takes the method's own."""
    init: Tensor | None = None
    """Clean latents ``1 c f h w`` to start from, for partial denoising."""
    strength: float = 1.0
    """Share of the schedule that is run on ``init``, in [0, 1]: its last, clean part."""
    reference: Tensor | None = None
    """Clean latents ``1 c r h w`` of photographs of the subject, for methods that film beside one or several."""
    entity: str = ""
    """The word for the subject in the prompt, for methods that look where it appears."""
    on_step: Callable[[int, int], None] | None = None
    """Called with (position in the schedule, its length) after every denoising step; partial denoising starts late."""
    on_reference: Callable[[Tensor], None] | None = None
    """Called with the clean latents ``1 c 1 h w`` of the image beside which the film was made, if there was one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Losses:
    """A loss, and the parts that go to the log."""

    total: Tensor
    """The scalar that is differentiated."""
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Named scalars for the log, without gradient."""
    void: bool = False
    """Whether nothing can be learned from this batch: the step then leaves everything as it is, and is counted."""


class Method(nn.Module, ABC):
    """One paper. Subclasses fill in the class attributes and the abstract calls.

    ``loss`` and ``generate`` attach by themselves, so a caller needs no context around them; but gradient checkpointing
    runs the network again during ``backward``, which is then called inside ``attached``. ``predict`` is called inside
    ``attached``. ``attached`` may be entered again while it is open: the inner entry does nothing.
    """

    name: ClassVar[str]
    """The key in ``METHODS``."""
    arxiv: ClassVar[str]
    """The paper's arXiv id."""
    title: ClassVar[str]
    """The paper's title."""
    state: ClassVar[str] = ""
    """What a person should know before relying on it, empty if nothing."""
    config_type: ClassVar[type[Any]]
    """The frozen dataclass of the method's options; all of them have defaults."""
    recipes: ClassVar[Mapping[str, Recipe]]
    """Complete recipes by name; the first is the default."""
    embedding: ClassVar[str | None] = None
    """The key of the state dict that holds word vectors, ``n d``, where these are all that is learned."""
    lora: ClassVar[str | None] = None
    """The module that holds low-rank changes of the denoiser's layers by name (``/`` for dots), where these and the
    words in ``rows`` are all that is learned."""
    ablation: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The rows of the paper's component table: what each changes in the run's ``options``, in its ``data`` and in the
    ``sample``, and with which ``reward`` (:class:`starring.config.Reward`) its films are optimised. The first is the
    baseline."""
    columns: ClassVar[tuple[str, ...]] = ("clip_t", "clip_i", "dino_i")
    """The scores of that table, in the paper's order."""
    shaping: ClassVar[frozenset[str]] = frozenset()
    """Options that learning depends on, of those that its rows change: such a row is learned for itself."""
    binding: ClassVar[frozenset[str]] = frozenset()
    """Options that must be the same in filming as they were in learning; others are told (of :attr:`paired` ones)."""
    moving: ClassVar[bool] = False
    """Whether it learns a motion from clips together with the subject."""
    paired: ClassVar[bool] = False
    """Whether it learns once for all subjects, from pairs of a picture and a clip, and not from photographs of one; a
    film then shows whom :attr:`Request.reference` shows, by the word :attr:`Request.entity`."""
    neutral: ClassVar[bool] = True
    """Whether the fresh method leaves films of prompts without the placeholder as they were."""

    def __init__(self, backbone: Backbone, config: Any = None) -> None:
        """Create fresh parameters that fit ``backbone``; ``config`` is an instance of ``config_type``."""
        super().__init__()
        self.config: Any = self.config_type() if config is None else config
        self.family = backbone.family
        self.tag = "new"
        """Extra words are called ``<new1>`` and on; another tag keeps those of several methods apart."""
        self._open = False

    @abstractmethod
    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Put the method on the network; leaving the context takes it off again, bit for bit."""

    @contextmanager
    def attached(self, backbone: Backbone) -> Iterator[None]:
        """The method on the network, for the length of the context.

        Raises:
            StarringError: if the backbone is of another family than the one the method was built for.
        """
        if self._open:
            yield
            return
        require_family(self.name, self.family, backbone)
        self._open = True
        try:
            with self.attach(backbone):
                yield
        finally:
            self._open = False

    @property
    def choices(self) -> dict[str, Any]:
        """The options with nothing left open; methods that are equal in them are the same on this backbone."""
        return to_json(self.config)

    @property
    def correlation(self) -> float:
        """The noise prior's gamma that the method asks for at inference; 0 is independent noise."""
        return 0.0

    @property
    def referenced(self) -> bool:
        """Whether films are made beside an image of the subject, for which ``Request.reference`` may stand."""
        return False

    def scheduler(self, backbone: Backbone) -> Any:
        """A fresh scheduler that films are drawn with: the backbone's, unless a method says otherwise."""
        return backbone.scheduler()

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels at which a picture beside a film of this height and width is encoded."""
        return height, width

    def prompt(self, text: str) -> str:
        """``text`` with the method's own words in place of ``<*>``."""
        return text

    def predict(self, backbone: Backbone, x: Tensor, t: Tensor, text: Text, request: Request | None = None) -> Tensor:
        """One denoiser call under this method, the same in training and in sampling; call it inside ``attached``.

        Args:
            backbone: the frozen network.
            x: noisy latents, ``b c f h w``.
            t: timesteps, ``()`` or ``(b,)``.
            text: encoded prompts, one or ``b`` of them.
            request: what is being filmed, when it is a film.

        Returns:
            The denoiser's output in the backbone's parametrization, ``b c f h w``.
        """
        return backbone.predict(x, t, text)

    @abstractmethod
    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """The training loss of one batch; ``progress`` is the share of the stage that is done, in [0, 1)."""

    def rests(self, batch: Batch) -> Iterable[nn.Parameter]:
        """Parameters that a step on this batch leaves as they are, bit for bit; none unless a method says otherwise."""
        return ()

    def stills(self, batch: Batch) -> Iterable[nn.Parameter]:
        """Parameters whose gradient in a step on this batch is zero: decay and old moments still move them."""
        return ()

    def idle(self) -> Iterable[nn.Parameter]:
        """Parameters that no output depends on, and no stage learns: there for the sake of a paper's file layout."""
        return ()

    def described(self, state: Mapping[str, Tensor]) -> str:
        """A state dict of this method in words, for messages about one that does not fit."""
        named = [f"{name} {tuple(value.shape)}" for name, value in sorted(state.items())]
        return f"{', '.join(named[:3])}{f' and {len(named) - 3} more' if len(named) > 3 else ''}"

    def forward(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """The same as :meth:`loss`, under the name that distributed wrappers call."""
        return self.loss(backbone, batch, progress)

    def generate(self, backbone: Backbone, request: Request) -> Tensor:
        """Latents ``1 c f h w`` of one film. The default is classifier-free guided sampling of :meth:`predict`."""
        with self.attached(backbone), torch.no_grad():
            return draw(self, backbone, request)

    @abstractmethod
    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """The parameters that the named stage trains.

        Raises:
            StarringError: if the method has no such stage, with the nearest name.
        """

    def rate(self, parameter: nn.Parameter) -> float:
        """The learning rate of one of :meth:`learns`, as a share of the recipe's."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainConfig:
    """Options of :class:`Plain`."""

    class_word: str = ""
    """What to write where the prompt says ``<*>``."""


class Plain(Method):
    """No customization: the backbone as it came, with the class word for the subject. The floor of every score."""

    name = "plain"
    arxiv = ""
    title = "No customization"
    config_type = PlainConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {}

    def attach(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Nothing is put on the network."""
        return nullcontext()

    def prompt(self, text: str) -> str:
        """``text`` with the class word once where it said ``<*>`` or ``<*> class_word``."""
        return plainly(text, self.config.class_word)

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """There is nothing to learn.

        Raises:
            StarringError: always.
        """
        raise StarringError("The plain backbone has nothing to learn. Choose a method: `starring methods` lists them.")

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """Nothing."""
        return ()


def plainly(text: str, class_word: str) -> str:
    """``text`` with the class word once where it said ``<*>`` or ``<*> class_word``; without one, with nothing."""
    if class_word:
        text = text.replace(f"{PLACEHOLDER} {class_word}", class_word).replace(PLACEHOLDER, class_word)
    return " ".join(text.replace(PLACEHOLDER, " ").split())


def draw(method: Method, backbone: Backbone, request: Request) -> Tensor:
    """Sample one film with ``method.predict`` under classifier-free guidance; call it inside ``method.attached``.

    Returns:
        Clean latents, ``1 c f h w``.
    """
    backbone.forget()
    noise = initial_noise(backbone, request, method.correlation)
    guidance, text = request.sample.guidance, read(method, backbone, request)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return method.predict(backbone, x, t, text, request)

    def tell(step: Step) -> None:
        if request.on_step is not None:
            request.on_step(step.index + 1, step.total)

    scheduler, steps = method.scheduler(backbone), request.sample.steps
    if request.init is None:
        return sample(predict, scheduler, noise, steps, guidance, request.generator, tell)
    init = request.init.to(noise)
    return partial(predict, scheduler, noise, init, request.strength, steps, guidance, request.generator, tell)


def read(method: Method, backbone: Backbone, request: Request) -> Text:
    """The request's prompts as guidance needs them: the prompt alone, or the negative one and the prompt."""
    prompt = method.prompt(request.prompt)
    negative = request.sample.negative if request.negative is None else request.negative
    return backbone.encode_text([prompt] if request.sample.guidance == 1 else [negative, prompt])


def initial_noise(backbone: Backbone, request: Request, correlation: float = 0.0) -> Tensor:
    """The request's noise, or a draw of the 3D Gaussian noise prior N(0, Sigma_f(gamma)) (arXiv 2402.09368, eq. 4).

    Args:
        backbone: gives device, precision and latent shape.
        request: ``noise`` wins over drawing; ``correlation`` wins over the next argument.
        correlation: gamma when the request does not say.

    Returns:
        ``1 c f h w`` float32 with unit variance everywhere.

    Raises:
        StarringError: if given noise has the wrong shape, or gamma lies outside [0, 1).
    """
    s = request.sample
    shape = (1, *backbone.latent_shape(s.frames, s.height, s.width))
    if request.noise is not None:
        if tuple(request.noise.shape) != shape:
            raise StarringError(f"The given noise is {tuple(request.noise.shape)}, but this film needs {shape}.")
        return request.noise.to(backbone.device, torch.float32)
    gamma = correlation if request.correlation is None else request.correlation
    return gaussian_prior(shape, gamma, generator=request.generator, device=backbone.device)


def require_family(name: str, family: str, backbone: Backbone) -> None:
    """Refuse a backbone of another family.

    Raises:
        StarringError: with both families and what to do.
    """
    if backbone.family != family:
        raise StarringError(
            f"This {name} run was learned on a backbone of the family '{family}', but '{backbone.name}' is of the"
            f" family '{backbone.family}'. Film it with a '{family}' backbone, or learn it again on '{backbone.name}'."
        )


def require_fitting(
    method: Method, weights: Mapping[str, Tensor], file: object, backbone: Backbone, learned_on: str = ""
) -> None:
    """Refuse weights of other names or shapes than the method has on this backbone.

    Args:
        method: which has the shapes.
        weights: what it is to take over.
        file: where they come from.
        backbone: for which the method was made.
        learned_on: name of the backbone that they were learned on, if it is known.

    Raises:
        StarringError: with both and what to do.
    """
    own = method.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in weights.items()}:
        raise StarringError(
            f"{file} holds {method.described(weights)}, but {method.name} on {backbone.name} with its options needs"
            f" {method.described(own)}. It was learned on {learned_on or 'another backbone'}, or with other options:"
            " take those."
        )
