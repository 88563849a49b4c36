"""What plugins hand to the core: offers, the needs they are asked about, and the reasons they answer with.

Everything here is a frozen value object and imports neither torch nor any backend, so that listing offers is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dit360_core.errors import Reason, setting

if TYPE_CHECKING:
    import torch

    from dit360_core.system.machine import Machine

PLUGIN_API = 1
"""The version of the contract in this file. An offer states the one it was written for as a literal."""


# ---------------------------------------------------------------------------------------------------------- needs


# Not frozen: PyTorch 2.14 cannot trace such a constructor, and plugins may make one in a region that is compiled.
@attrs.define(kw_only=True, unsafe_hash=True)
class AttentionNeed:
    """One kind of attention call: ``q, k, v`` are ``(batch, length, heads, head_dim)``.

    device: where it computes: cpu, cuda or mps.
    dtype: of q, k and v: fp32, bf16 or fp16.
    heads, head_dim: how many heads, and channels of each.
    length: tokens of the prompt and the image, pad columns included.
    batch: pictures at once.
    key_bias: whether numbers are to be added to the scores, one for each key.
    """

    device: str
    dtype: str
    heads: int
    head_dim: int
    length: int
    batch: int = 1
    key_bias: bool = False


@attrs.frozen(kw_only=True)
class QuantizationNeed:
    """What quantized weights are to do.

    device: where they compute: cpu, cuda or mps.
    dtype: of the activations that meet them: fp32, bf16 or fp16.
    offload: as in :class:`LoadOptions`.
    adapter: whether a LoRA is to stay beside the quantized layers.
    sizes: of what is on the device at one time, one after the other (with ``offload=model``: the parts): how many
    weights would be quantized, and the bytes of all others.
    budget: bytes that there are for either. Only ``auto`` asks for sizes.
    """

    device: str
    dtype: str
    offload: str = "none"
    adapter: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    budget: int = 0


@attrs.frozen(kw_only=True)
class SchedulingNeed:
    """A run of a solver.

    steps: how many.
    tokens: of the image, pad columns included.
    """

    steps: int
    tokens: int


@attrs.frozen(kw_only=True)
class TilingNeed:
    """A decode (or encode) of a picture.

    device: where: cpu, cuda or mps.
    dtype: of the autoencoder: fp32, bf16 or fp16.
    width, height: in pixels.
    mode: auto, always (more than one tile) or never (one piece).
    auto_tile_pixels: a picture of more pixels is to be cut even in mode auto; 0: no such limit.
    level: as in :class:`TilingSettings`.
    """

    device: str
    dtype: str
    width: int
    height: int
    mode: str = "auto"
    auto_tile_pixels: int = 0
    level: str = "auto"


@attrs.frozen(kw_only=True)
class LayerNeed:
    """One call of a quantized Linear layer: ``(tokens, inputs) -> (tokens, outputs)``.

    device: where: cpu, cuda or mps.
    inputs, outputs: features of the layer.
    tokens: that it sees.
    itemsize: bytes of a number of the activations.
    """

    device: str
    inputs: int
    outputs: int
    tokens: int
    itemsize: int


Need = AttentionNeed | QuantizationNeed | SchedulingNeed | TilingNeed


# ------------------------------------------------------------------------------------------------ implementations


class Attend(Protocol):
    """``attend(q, k, v, *, scale) -> out``: softmax(q·kᵀ·scale)·v over the length axis.

    All four are ``(B, S, H, D)``; q and k/v may differ in length. No dropout, not causal. One whose offer says
    ``takes_key_bias`` also takes ``key_bias``, ``(Sk,)`` on the device of k in fp32 (fp64 if k is), added to the
    scores of every query; the others are never given it.

    One thing more may be there: ``refuses(machine, need) -> Iterable[Reason]``, asked for each need after loading, for
    a library that can tell by itself what it cannot do.
    """

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor: ...


class TimeShift(Protocol):
    """Moves a noise level towards 1, as the model was trained: ``shift(sigma, tokens) -> sigma'``, both in 0 … 1."""

    def __call__(self, sigma: float, tokens: int) -> float: ...


@attrs.frozen(kw_only=True)
class SchedulerSettings:
    """What a scheduler is built with, once for every picture.

    shift: the model's own time shift.
    timestep_schedule, eta: the options of those names; only meaningful to a scheduler whose offer lists them in
    ``honours``.
    """

    shift: TimeShift
    timestep_schedule: str = "linear"
    eta: float = 0.0


class FlowModel(Protocol):
    """What a solver may ask: ``model(x, sigma) -> velocity``, x as in :meth:`SchedulerImplementation.step`."""

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor: ...


class SchedulerImplementation(Protocol):
    """Flow convention: x_σ = (1−σ)·x0 + σ·ε, velocity = ε − x0.

    A solver that asks the model more than once a step has ``advance(model, x, sigma, sigma_next, generator) -> x``,
    which is called instead of ``step``; its offer tells with ``evaluations`` how often it asks in all. A run may begin
    at any of the levels that ``sigmas`` returned, and calls are in order from there.
    """

    def sigmas(self, steps: int, tokens: int) -> list[float]:
        """``steps + 1`` falling noise levels, the first in (0, 1], the last exactly 0.

        tokens: of the image, pad columns included; the model's time shift depends on them.
        """
        ...

    def step(
        self,
        velocity: torch.Tensor,
        sigma: float,
        sigma_next: float,
        x: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Carries ``x`` from ``sigma`` to ``sigma_next``.

        velocity: what the model says of ``x`` at ``sigma``, in its shape.
        x: fp32, ``(B, tokens, channels)``, real columns only.
        generator: of the seed's random numbers.

        Noise is drawn from ``generator``, which lives on the CPU whatever device ``x`` is on, and then moved: a seed
        means one picture on every device.
        """
        ...


class QuantizerImplementation(Protocol):
    """Stores Linear layers in fewer bits, one at a time: the core says which, fuses LoRAs first, counts and checks.

    One thing more may be there: ``restore(linear, tensors, *, one_token) -> module``, the inverse of
    ``module.state_dict()`` for a module that ``quantize`` made. Without it quantized models of this kind cannot be
    saved. ``linear`` is a Linear of the same shape, on the meta device and of the dtype of the activations; ``tensors``
    are on the device wanted.
    """

    def quantize(self, linear: torch.nn.Linear, *, one_token: bool) -> torch.nn.Module:
        """A module that computes what ``linear`` does, ``(…, in) -> (…, out)`` in the dtype of its input.

        ``linear`` has the dtype of the activations, is on the device where the layer will run, and may be changed.

        one_token: the layer sees one token a picture (a modulation), so its time is nothing and its error is
        everybody's.

        Raises ValueError for a layer that it cannot store.
        """
        ...


@attrs.frozen(kw_only=True)
class TilingSettings:
    """What a tiling is built with, once for every picture.

    mode, auto_tile_pixels: as in :class:`TilingNeed`.
    tile_size, tile_overlap: pixels.
    level: how much is computed again to save memory, for a tiling that has such levels; ``auto``: as free memory asks.
    budget: bytes that the process may hold on the device in all; 0: whatever is free.
    """

    mode: str = "auto"
    level: str = "auto"
    tile_size: int = 1536
    tile_overlap: int = 128
    auto_tile_pixels: int = 0
    budget: int = 0


class TilingImplementation(Protocol):
    """Both directions keep longitude circular: rolling the input by one latent column rolls the output by eight pixels.

    latents ``(B, C, h, w)`` as the VAE stores them (already unscaled), pixels ``(B, 3, 8h, 8w)`` in −1 … 1. The input
    and the VAE stay as they are.

    More may be there besides: ``refuses(vae) -> Iterable[Reason]``, asked before anything is decoded; ``report``, a
    mapping that tells after a call what was done (``tiles``: how many; ``predicted_bytes``), and that is written into
    the picture's metadata; ``predicts(vae, shape, device, room) -> mapping``, for the planner: what decoding latents of
    this shape takes beside weights (``bytes``), how it would be done (``level``), and its ``operations``; and
    ``predicts_encoding(vae, shape, device, room) -> mapping``, the same of encoding pixels of this shape. The VAE is on
    the meta device then; room: bytes that there are, None for what is free.
    """

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents become pixels ``(B, 3, 8h, 8w)``.

        vae: the autoencoder, a module of diffusers.
        latents: ``(B, C, h, w)``.
        """
        ...

    def encode(self, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels become latents ``(B, C, h, w)``.

        vae: as for :meth:`decode`.
        pixels: ``(B, 3, 8h, 8w)``.
        """
        ...


# --------------------------------------------------------------------------------------------------------- offers


def _always(machine: Machine, need: Any) -> Iterable[Reason]:
    return ()


def _one_a_step(steps: int) -> int:
    return steps


def _weights_once(need: LayerNeed) -> int:
    return need.inputs * need.outputs * need.itemsize


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    # Without its comma, ("xformers>=1") is a text, which would become one requirement a letter.
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{given!r} holds something else than text")
    return texts


def _set_of_texts(given: Iterable[str]) -> frozenset[str]:
    return frozenset(_texts(given))


def _pair(given: Iterable[float]) -> tuple[float, float]:
    low, high = given
    if not all(isinstance(number, int | float) for number in (low, high)):
        raise TypeError(f"{given!r} holds something else than numbers")
    return low, high


_TEXT = attrs.validators.instance_of(str)
_WHOLE = attrs.validators.instance_of(int)
_NUMBER = attrs.validators.instance_of((int, float))

_NAME_FORM = r"[a-z0-9][a-z0-9_.-]*"
_NAME = attrs.validators.matches_re(_NAME_FORM)


@attrs.frozen(kw_only=True)
class Offer:
    """What every offer says of itself.

    name: lower-case, unique within its kind.
    api: the :data:`PLUGIN_API` the author wrote for, as a literal.
    priority: ``auto`` takes the highest that works; the core's own best is 10.
    summary: half a sentence for listings.
    requires: PEP 508 requirements (``"xformers>=0.0.30"``) checked from metadata before anything is imported.
    install: the command that brings them, if it is not ``pip install`` and the requirement.
    unsupported: why this machine cannot serve this need; nothing means it can. Cheap, never raises, never allocates.
    """

    name: str = attrs.field(validator=[_TEXT, _NAME])
    api: int
    priority: int = attrs.field(default=0, validator=_WHOLE)
    summary: str = attrs.field(default="", validator=_TEXT)
    requires: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    install: str = attrs.field(default="", validator=_TEXT)
    unsupported: Callable[[Machine, Any], Iterable[Reason]] = attrs.field(
        default=_always, validator=attrs.validators.is_callable()
    )

    def lacks(self, need: Any) -> Iterable[Reason]:
        """Why it cannot serve a need by what it says of itself, before ``unsupported`` is asked."""
        return ()

    @property
    def rank(self) -> tuple[float, ...]:
        """``auto`` tries the lowest first."""
        return (-self.priority,)


@attrs.frozen(kw_only=True)
class AttentionBackend(Offer):
    """A way to compute attention. All of them agree within rounding, so one may stand in for another.

    stores_scores: whether it holds all scores at once, so that slices of the queries save memory.
    takes_key_bias: whether it can add numbers to the scores of each key, for ``circular_mode=bias``.
    family: a name that several offers of one distribution answer to, which means the first of them that works; or
    empty.
    load: gives the kernel; heavy imports belong in it.
    """

    stores_scores: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    takes_key_bias: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    family: str = attrs.field(default="", validator=[_TEXT, attrs.validators.matches_re(f"({_NAME_FORM})?")])
    load: Callable[[], Attend] = attrs.field(validator=attrs.validators.is_callable())

    def lacks(self, need: Any) -> Iterable[Reason]:
        """As :meth:`Offer.lacks`: a bias on the keys, if it takes none."""
        if need.key_bias and not self.takes_key_bias:
            yield Reason("mask", "it takes no bias on the keys", f"use {setting('circular_mode', 'pad')}")


@attrs.frozen(kw_only=True)
class Quantizer(Offer):
    """A way to store weights in fewer bits. Changes the picture and the memory: never chosen in another's place.

    bits: stored for each quantized weight, scales included; 0: as many as were loaded.
    error: the claim that the output of a FLUX transformer quantized so differs by no more than this share (root mean
    square).
    scratch: bytes that a call of a layer takes beside input, weights and output; if nobody says, its weights in full.
    load: gives the implementation; None where nothing is to be done.
    """

    bits: float = attrs.field(default=0.0, validator=[_NUMBER, attrs.validators.ge(0)])
    error: float = attrs.field(default=1.0, validator=[_NUMBER, attrs.validators.ge(0)])
    scratch: Callable[[LayerNeed], int] = attrs.field(default=_weights_once, validator=attrs.validators.is_callable())
    load: Callable[[], QuantizerImplementation | None] = attrs.field(validator=attrs.validators.is_callable())

    def lacks(self, need: Any) -> Iterable[Reason]:
        """As :meth:`Offer.lacks`: room for the weights, if their sizes are known."""
        bits = self.bits or {"fp32": 32, "fp64": 64}.get(need.dtype, 16)
        bytes_ = max((weights * bits / 8 + others for weights, others in need.sizes), default=0)
        if bytes_ > need.budget:
            gib = 2**30
            yield Reason(
                "size", f"weights of {bytes_ / gib:.1f} GiB, and there is room for {need.budget / gib:.1f} GiB"
            )

    @property
    def rank(self) -> tuple[float, ...]:
        # The most bits first; of those that store alike (by whole bits), the one of the higher priority. One that
        # changes the weights and does not say how many bits it takes comes last.
        return (-round(self.bits or (0 if self.error else 64)), -self.priority)


@attrs.frozen(kw_only=True)
class Scheduler(Offer):
    """A solver.

    load: gives the implementation for the settings of a picture.
    honours: which of the sampling options ``timestep_schedule`` and ``scheduler_eta`` it obeys.
    evaluations: how often it asks the model in a run of so many steps.
    """

    evaluations: Callable[[int], int] = attrs.field(default=_one_a_step, validator=attrs.validators.is_callable())
    load: Callable[[SchedulerSettings], SchedulerImplementation] = attrs.field(validator=attrs.validators.is_callable())
    honours: frozenset[str] = attrs.field(default=frozenset(), converter=_set_of_texts)


@attrs.frozen(kw_only=True)
class Tiling(Offer):
    """A way to run the autoencoder over a panorama.

    load: gives the implementation for the settings of a picture.
    exact: whether it equals the untiled circular result up to rounding.
    """

    load: Callable[[TilingSettings], TilingImplementation] = attrs.field(validator=attrs.validators.is_callable())
    exact: bool


@attrs.frozen(kw_only=True)
class ModelFamily(Offer):
    """A family of models: which folders are of it, and what opens them.

    title: what sentences call it, such as "FLUX.1".
    pipelines: classes of diffusers, as ``model_index.json`` names them, or a loaded pipeline is one.
    transformers: classes of a transformer's configuration, for a folder without ``model_index.json``.
    load: gives the :class:`dit360_core.models.family.Architecture`, and imports no torch.
    """

    title: str = attrs.field(validator=_TEXT)
    pipelines: tuple[str, ...] = attrs.field(converter=_texts)
    transformers: tuple[str, ...] = attrs.field(converter=_texts)
    # Untyped, since the rooms of models stand upon that of plugins.
    load: Callable[[], Any] = attrs.field(validator=attrs.validators.is_callable())


@attrs.frozen(kw_only=True)
class WrittenForm:
    """A form that matrices can have in files that are written.

    name: as ``dit360 quantize --mode`` has it, such as ``Q4_K``.
    bits: of a number, with scales.
    every_layer: whether all Linear layers of a part must have it, those too that are better left in full.
    """

    name: str = attrs.field(validator=_TEXT)
    bits: float = attrs.field(validator=_NUMBER)
    every_layer: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))


def _forms(given: Iterable[WrittenForm]) -> tuple[WrittenForm, ...]:
    return tuple(given)


@attrs.frozen(kw_only=True)
class WeightsFormat(Offer):
    """A form of files that hold weights.

    suffixes: of their names, with the dot, in small letters.
    load: gives what opens one by its path: the class or function of a :class:`dit360_core.models.family.WeightsFile`,
    which reads a file's header without torch.
    writes: the forms that matrices can have in files that it writes; empty: it writes none.
    writer: gives what writes them, a :class:`dit360_core.models.running.WeightsWriter`; None: it writes none.
    """

    suffixes: tuple[str, ...] = attrs.field(converter=_texts)
    # Untyped, since the rooms of models stand upon that of plugins.
    load: Callable[[], Any] = attrs.field(validator=attrs.validators.is_callable())
    writes: tuple[WrittenForm, ...] = attrs.field(
        default=(),
        converter=_forms,
        validator=attrs.validators.deep_iterable(attrs.validators.instance_of(WrittenForm)),
    )
    writer: Callable[[], Any] | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.is_callable())
    )


@attrs.frozen(kw_only=True)
class Model(Offer):
    """A name for a base model, its LoRA and how they want to be asked.

    base: diffusers folder or Hub id.
    lora: safetensors file, folder, Hub id, or None. prompt_prefix is put before every prompt.
    width, height: native size in pixels.
    precision: what ``auto`` means for it, or ``auto`` itself.
    position_interpolation: whether other sizes are made with the position ids of the native one.
    cube_consistency: how far rows near the poles are kept as smooth as their circles are small, 0 … 1.
    shape: a folder with the configurations of the parts alone, for planning before the model is downloaded, or None.
    guidance_range: lowest and highest guidance that it paints well with; beyond it is warned. The defaults keep to the
    ranges of the options.
    """

    base: str = attrs.field(validator=_TEXT)
    lora: str | None = attrs.field(default=None, validator=attrs.validators.optional(_TEXT))
    shape: str | None = attrs.field(default=None, validator=attrs.validators.optional(_TEXT))
    prompt_prefix: str = attrs.field(default="", validator=_TEXT)
    width: int = attrs.field(validator=_WHOLE)
    height: int = attrs.field(validator=_WHOLE)
    steps: int = attrs.field(default=28, validator=_WHOLE)
    guidance: float = attrs.field(default=3.5, validator=_NUMBER)
    guidance_range: tuple[float, float] = attrs.field(default=(1.0, 10.0), converter=_pair)
    circular_padding: int = attrs.field(default=1, validator=_WHOLE)
    latent_rotation: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    position_interpolation: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    cube_consistency: float = attrs.field(default=0.0, validator=_NUMBER)
    precision: str = attrs.field(default="auto", validator=attrs.validators.in_(("auto", "fp32", "bf16", "fp16")))
