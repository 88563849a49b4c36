"""What a family of models is. All that lies outside of a family's own folder, or distribution, speaks to this alone.

An :class:`Architecture` says what can be told without PyTorch: the parts, the files, the sizes. Its :class:`Networks`
build and run the parts. A further family is one more of both, and an offer (``dit360_architectures``) that says which
folders are of it.

What all families have in common: latents are an eighth of the picture, a token is two by two of them, and the tokens of
the prompt come before the picture's wherever attention sees both.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from dit360_core.models.original_names import Original, as_they_are
from dit360_core.models.weights.schema import read_json
from dit360_core.options import QUANTIZED_MEANS

if TYPE_CHECKING:
    import torch

    from dit360_core.models.weights.selection import Policy
    from dit360_core.plugins.offers import Attend, Model

DENOISER = "transformer"
"""What diffusers calls the part that paints, in every pipeline of a diffusion transformer."""
AUTOENCODER = "vae"
"""What diffusers calls the part between latents and pixels."""


class Guidance(enum.Enum):
    """What a model makes of the option ``guidance``."""

    EMBEDDED = "given to the denoiser as a number"
    TRUE = "a second evaluation, for the negative prompt"
    NONE = "distilled away"


class Role(enum.Enum):
    """What a part does for a picture."""

    TEXT = "reads the prompt"
    DENOISER = "turns noise into latents"
    AUTOENCODER = "turns latents into pixels"


@attrs.frozen(kw_only=True)
class Part:
    """One network of a model.

    name: its folder, and its attribute in diffusers' pipeline.
    role: what it does.
    words: what sentences call it, such as "autoencoder".
    short: the same in one word.
    option: the value of ``quantization_parts`` that selects it alone; empty: it is never quantized.
    blocks: paths of its lists of blocks; the blocks of one list are alike.
    streamed: paths of submodules in which diffusers looks for blocks to bring one by one; empty: in the part itself.
    wide_in_fp16: it computes in float32 where the rest is fp16, in which it overflows.
    small: it is a hundredth of the weights, so it is never dropped and never brought by blocks.
    harmless: patterns of tensors in its files that it does not use.
    prefixes: what may stand before the names of its tensors, or be left out.
    containers: what stands before the names of its tensors in files that may hold other parts, too.
    signs: tensors of which one is in every file of such a part.
    usual_file: what such a file is called.
    """

    name: str
    role: Role
    words: str
    short: str
    option: str = ""
    blocks: tuple[str, ...] = ()
    streamed: tuple[str, ...] = ()
    wide_in_fp16: bool = False
    small: bool = False
    harmless: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    containers: tuple[str, ...] = attrs.field()
    signs: tuple[str, ...] = ()
    usual_file: str = ""

    @containers.default
    def _by_role(self) -> tuple[str, ...]:
        """ComfyUI's, and those of older files."""
        return {
            Role.DENOISER: ("model.diffusion_model.", "diffusion_model."),
            Role.AUTOENCODER: ("vae.", "first_stage_model."),
            Role.TEXT: (),
        }[self.role]


@attrs.frozen(kw_only=True)
class Given:
    """A part that was given.

    option, name: how.
    part: which.
    path: its file, or the folder of the part; None: on the Hub.
    """

    option: str
    name: str
    part: Part
    path: Path | None


@attrs.frozen(kw_only=True)
class FromShapes:
    """What the tensors of a transformer tell of a model.

    transformer: of its configuration.
    scheduler: of the scheduler's, where that is another than the family's usual one.
    index: of ``model_index.json``.
    notes: what the tensors do not tell and was taken for granted, in sentences.
    """

    transformer: Mapping[str, Any]
    scheduler: Mapping[str, Any] = attrs.field(factory=dict)
    index: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Facts:
    """What the configuration of a model says.

    heads: of the denoiser's attention.
    head_dim: channels of each head.
    latent_channels: C of latents ``(1, C, H/8, W/8)``.
    guidance: what ``guidance`` means to it.
    off: true guidance up to this is none: one evaluation is enough.
    negative_prompt: what true guidance leads away from where nothing is said.
    fills: whether it is shown a picture with a hole, and the hole, beside the noise, and needs one.
    reference_prompt: what is said before a prompt that comes with a picture whose unknown part is green, in a model
    that can be shown one as tokens after its own; None: it cannot.
    """

    heads: int
    head_dim: int
    latent_channels: int
    guidance: Guidance
    off: float = 1.0
    negative_prompt: str = ""
    fills: bool = False
    reference_prompt: str | None = None

    @property
    def refers(self) -> bool:
        """Whether it can be shown a picture as tokens after its own."""
        return self.reference_prompt is not None

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is embedded."""
        return self.guidance is Guidance.EMBEDDED


@attrs.frozen(kw_only=True)
class Target:
    """Where a layer of a LoRA file belongs.

    part: name of the part.
    modules: one layer of it, or those whose outputs lie one after the other in the layer that was trained (q, k, v).
    halves_swapped: whether the two halves of its outputs are in the other order here.
    """

    part: str
    modules: tuple[str, ...]
    halves_swapped: bool = False


def index_of(folder: Path) -> dict[str, Any]:
    """The ``model_index.json`` of a model's folder; empty if it has none. Raises ModelError for one that is damaged."""
    index = folder / "model_index.json"
    return read_json(index) if index.is_file() else {}


class Architecture(abc.ABC):
    """A family of models, as far as it can be told without PyTorch."""

    name: ClassVar[str]
    """In one word, for programs."""
    title: ClassVar[str]
    """For sentences, such as "FLUX.1"."""
    parts: ClassVar[tuple[Part, ...]]
    """Its networks, in the order in which they are read."""
    others: ClassVar[tuple[str, ...]]
    """Further folders of a model: tokenizers, the scheduler's configuration."""
    replaceable: ClassVar[Mapping[str, str]] = {}
    """Option → the part that it names another for."""
    longest_prompt: ClassVar[int]
    """Tokens that a prompt is padded or cut to, at most."""
    text_keys: ClassVar[tuple[str, ...]] = ()
    """Of the denoiser's configuration, what says which text encoders it takes."""
    usual_lora_bytes: ClassVar[int]
    """Of a LoRA that is not here yet, for a plan."""
    lora_layers: ClassVar[str]
    """Whose layers a LoRA may change, in words."""

    # ------------------------------------------------------------------------------------------------------- parts

    def part(self, name: str) -> Part:
        """The part of that name."""
        return next(part for part in self.parts if part.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(part.name for part in self.parts)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that a whole model has."""
        return (*self.names, *self.others)

    def precision_of(self, part: str, precision: str) -> str:
        """What a part computes in where the model is loaded in a precision."""
        return "fp32" if precision == "fp16" and self.part(part).wide_in_fp16 else precision

    @property
    def encoders(self) -> tuple[str, ...]:
        """The parts that read a prompt."""
        return tuple(part.name for part in self.parts if part.role is Role.TEXT)

    def used_by(self, role: Role) -> tuple[str, ...]:
        """The parts of a role."""
        return tuple(part.name for part in self.parts if part.role is role)

    def quantized_by(self, option: str) -> tuple[str, ...]:
        """The parts that a value of ``quantization_parts`` means."""
        wanted = QUANTIZED_MEANS.get(option, option)
        return tuple(part.name for part in self.parts if part.option and wanted in ("both", part.option))

    def given_as(self, part: str) -> str | None:
        """The option that another file is given with for a part; None: there is none."""
        return next((option for option, name in self.replaceable.items() if name == part), None)

    def by_blocks(self, offload: str) -> tuple[str, ...]:
        """The parts that come by blocks, and only while they are used; the others stay on the device."""
        roles = {"text": (Role.TEXT,), "group": (Role.DENOISER, Role.TEXT), "disk": (Role.DENOISER, Role.TEXT)}
        return tuple(part.name for part in self.parts if part.role in roles.get(offload, ()) and not part.small)

    def evicted(self, evict: str) -> tuple[str, ...]:
        """The parts that are dropped after use."""
        roles = {"text": (Role.TEXT,), "all": tuple(Role)}
        return tuple(part.name for part in self.parts if part.role in roles.get(evict, ()) and not part.small)

    def moved_by_the_core(self, offload: str, part: str) -> bool:
        """Whether this way to offload brings a part to the device by itself, and only while it is used."""
        return offload in ("model", "sequential") or part in self.by_blocks(offload)

    # ------------------------------------------------------------------------------------------------------- files

    @abc.abstractmethod
    def check_folder(self, folder: Path, *, without: Collection[str] = ()) -> None:
        """Raises ModelError unless a folder holds a whole model of this family that can be loaded.

        without: parts whose weights are not wanted, since others take their place.
        """

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        """Raises ModelError unless the folder of a part is that of such a part of this family.

        weights: they must be there and whole.
        """
        self.read_config(part, folder)

    def check_configs(self, folder: Path) -> None:
        """Raises ModelError for a folder whose configurations are of no model that can be run. It may lack weights."""
        for part in self.names:
            self.read_config(part, folder / part)

    @abc.abstractmethod
    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        """The configuration of a part in the part's folder, as far as its keys are known. Raises ModelError."""

    @abc.abstractmethod
    def facts_of(self, config: Mapping[str, Any], index: Mapping[str, Any]) -> Facts:
        """What a model's configurations say.

        config: the denoiser's.
        index: what ``model_index.json`` says, or the configuration of a pipeline; empty if nobody knows it.
        """

    def facts(self, folder: Path) -> Facts:
        """The same of the model in a folder."""
        return self.facts_of(self.read_config(DENOISER, folder / DENOISER), index_of(folder))

    @abc.abstractmethod
    def prompt_tokens(self, folder: Path) -> int:
        """Tokens that a prompt is padded to, as the tokenizer in a model's folder says."""

    @abc.abstractmethod
    def usual(self, model: Model, facts: Facts) -> Model:
        """A model that is given by its files alone, with the steps and guidance that such ones are usually run with.

        facts: of its denoiser.
        """

    def from_shapes(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> FromShapes | None:
        """What a transformer's tensors tell of the model; None: of none that can be run.

        shapes: tensor, as any file may call it, without what stands before all names → shape.
        name: of the file, without its ending.
        """
        return None

    @property
    def usual_pipeline(self) -> str:
        """The class that ``model_index.json`` of such a model names."""
        return ""

    # ----------------------------------------------------------------------------------------------- replaced parts

    def check_replaced(self, replaced: Sequence[Given], folder: Path) -> None:  # noqa: B027 - what files tell is compared
        """Raises ModelError for a part that makes or takes other numbers than the denoiser in ``folder``."""

    def notes_on_replaced(self, replaced: Sequence[Given], folder: Path) -> Iterable[str]:
        """What is odd about parts that were given, in sentences."""
        return ()

    # -------------------------------------------------------------------------------------------------------- LoRAs

    @abc.abstractmethod
    def target(self, name: str) -> Target | None:
        """The layer that a LoRA's file means by a name, without what names a factor; None: no layer of this family."""

    def other_names(self, part: str, name: str) -> tuple[str, ...]:
        """Other names that a tensor of a part may have in files, such as those of the model's makers.

        part, name: which. What is called so may be flat there, and has the part's shape here.
        """
        return ()

    def originals(self, part: str, names: Collection[str]) -> tuple[Original, ...] | None:
        """The tensors of a file that its makers, and other programs, would have of a part.

        part: its name.
        names: of all of its tensors here.

        None if no such file can be written, as of a text encoder of which only the first layers are loaded.
        """
        return as_they_are(names) if part == DENOISER else None

    def first_inputs(self, part: str, layer: str, inputs: int) -> int | None:
        """How many inputs a layer has in other models of the family, where here it has more and these are the first.

        part, layer: which.
        inputs: that it has here.

        None: all of its models have as many.
        """
        return None

    # ------------------------------------------------------------------------------------------------------ networks

    @property
    @abc.abstractmethod
    def networks(self) -> Networks:
        """What builds and runs the parts; imports PyTorch and diffusers."""

    def __reduce__(self) -> Any:
        """Another process makes its own: there is nothing in it."""
        return type(self), ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class Networks(abc.ABC):
    """How the parts of a family are built and run."""

    def __init__(self, architecture: Architecture) -> None:
        """architecture: the family that these are of."""
        self.architecture = architecture

    # ------------------------------------------------------------------------------------------------------ building

    @abc.abstractmethod
    def empty(self, part: str, folder: Path) -> torch.nn.Module:
        """A part as the configuration in its folder says, on the meta device. Raises ModelError."""

    @abc.abstractmethod
    def bare_denoiser(self, config: Mapping[str, Any]) -> torch.nn.Module:
        """The denoiser of a configuration on the meta device, free of LoRAs and with the weights' own shapes."""

    @abc.abstractmethod
    def assemble(self, folder: Path, parts: Mapping[str, Any]) -> Any:
        """A pipeline of diffusers.

        folder: the model's, whose tokenizers and scheduler it gets.
        parts: name → part, None for those that are read later.

        Raises ModelError if they do not fit together.
        """

    @abc.abstractmethod
    def check_given(self, pipe: Any) -> None:
        """Raises InputError for a pipeline of diffusers that somebody gives us and that is none of this family's."""

    @abc.abstractmethod
    def open(self, pipe: Any, *, device: torch.device, dtype: torch.dtype, residency: Any, config: Any) -> Any:
        """The :class:`~dit360_core.models.engine.Engine` of a pipeline (untyped here, since engines know this module).

        pipe: of diffusers, as :meth:`assemble` makes it.
        device: where it computes.
        dtype: that the denoiser computes in.
        residency: which parts come and go, a :class:`~dit360_core.models.residency.residency.Residency`.
        config: the denoiser's, which may not be in memory.
        """

    # ------------------------------------------------------------------------------------------------------ adapting

    def names_read(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        """Name in a file → name here, for a part whose makers call its tensors otherwise, where a library knows how.

        names: all of the part's in the file.
        """
        return {}

    def shape_read(self, part: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that :meth:`as_read` makes of a tensor of a part's files."""
        return shape

    def as_read(self, part: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a part's files as the part holds it, where that is not all of it."""
        return tensor

    @abc.abstractmethod
    def policy(self, part: str) -> Policy:
        """Which layers of a part are quantized."""

    @abc.abstractmethod
    def as_used(self, part: str, name: str, module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """A quantized layer as its part can call it.

        dtype: that it was made to compute in.
        """

    @abc.abstractmethod
    def attach(self, denoiser: Any, attend: Attend, slice_size: int) -> None:
        """Gives a denoiser an attention kernel, ``slice_size`` queries at a time (0: all). Raises InputError."""

    @abc.abstractmethod
    def compile(self, denoiser: Any) -> None:
        """Compiles the blocks of a denoiser."""

    # ------------------------------------------------------------------------------- running on shapes, for the planner

    @abc.abstractmethod
    def read_text(self, part: str, module: Any, tokens: int) -> Callable[[], Any]:
        """One run of a text encoder on the meta device.

        tokens: of the prompt.
        """

    @abc.abstractmethod
    def denoise(self, module: Any, dtype: torch.dtype, image_tokens: int, text_tokens: int) -> Callable[[], Any]:
        """One evaluation of a denoiser on the meta device.

        image_tokens: pad columns included.
        """

    @abc.abstractmethod
    def prompt_tokens_of(self, pipe: Any) -> int:
        """Tokens that a prompt is padded to in a loaded pipeline."""
