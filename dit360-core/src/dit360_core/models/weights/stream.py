"""A part of a model is quantized while it is loaded, layer by layer, so that in full precision it need never fit.

The libraries' own way, a quantization config given to ``from_pretrained``, is not gone here: diffusers refuses it on a
CPU, and a LoRA can then only be added to weights that are rounded already.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch

from dit360_core.errors import ModelError
from dit360_core.models.architecture import Networks
from dit360_core.models.weights.conversion import Converted, FusedLora, Layer, convert, place, quantized_output
from dit360_core.models.weights.forms.manifest import manifest_in
from dit360_core.models.weights.forms.packed import PackedEmbedding
from dit360_core.models.weights.forms.reading import FileTensors
from dit360_core.models.weights.forms.renaming import Wanted
from dit360_core.models.weights.headers import check_names, sources
from dit360_core.models.weights.progress import read_of
from dit360_core.models.weights.selection import Selection, selections
from dit360_core.models.weights.tensors import Tensors
from dit360_core.system.memory import give_back_freed_memory

if TYPE_CHECKING:
    from dit360_core.plugins.offers import QuantizerImplementation


class Additions(Protocol):
    """What is added to layers while they are read, such as LoRAs."""

    def layers(self, part: str) -> Collection[str]:
        """Names of the layers of a part that are changed."""
        ...

    def added(self, old: torch.Tensor, part: str, layer: str, leaf: str) -> torch.Tensor:
        """A weight or bias (leaf) with what is added to it, in its own dtype."""
        ...

    def effect(self, part: str, layer: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What is added to a layer's output, its bias aside; None if that is nothing."""
        ...

    def check(self, part: str) -> None:
        """Raises ModelError if something was to change a part and changed nothing."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Quantizing:
    """How parts are quantized while they are loaded.

    networks: of the model's family.
    implementation: what quantizes a layer.
    parts: names of the parts.
    device: where a layer is quantized.
    home: where it rests afterwards.
    skip: as in ``quantization_skip``.
    additions: to the parts' layers before they are quantized, such as LoRAs.
    """

    networks: Networks
    implementation: QuantizerImplementation
    parts: tuple[str, ...]
    device: torch.device
    home: torch.device
    skip: str = ""
    additions: Additions | None = None


@attrs.frozen(eq=False)
class Piece:
    """What a part is put together from: a quantized layer with what there is to say of it, or a tensor as it was."""

    name: str
    content: torch.nn.Module | torch.Tensor
    layer: Layer | None = None


@attrs.frozen(eq=False)
class Part:
    """A part whose weights are not read yet.

    module: on the meta device.
    sources: parameter → its name in the files, where that is another.
    additions: as in :class:`Quantizing`.
    """

    name: str
    module: torch.nn.Module
    tensors: Tensors | FileTensors
    selection: Selection
    sources: Mapping[str, str] = attrs.field(factory=dict)
    additions: Additions | None = None


def tensors_of(folder: Path) -> Tensors | FileTensors:
    """The tensors of a part: in its folder, or in the file that a manifest there names."""
    manifest = manifest_in(folder)
    return Tensors(folder) if manifest is None else FileTensors(folder, manifest)


def wanted_of(networks: Networks, name: str, folder: Path) -> Wanted:
    """What a part wants of files, as the configuration in its folder says."""
    module = networks.empty(name, folder)
    shapes = {key: tuple(tensor.shape) for key, tensor in held(module).items()}
    return Wanted(
        shapes=shapes,
        tied=_tied(module),
        as_read=functools.partial(networks.shape_read, name),
        names_read=functools.partial(networks.names_read, name),
    )


def check_part(networks: Networks, name: str, folder: Path, told: Path) -> None:
    """Raises ModelError unless the weights in the folder of a part are its own, by their names and shapes.

    told: what the folder is called in a sentence.
    """
    part_of(networks, name, folder, networks.empty(name, folder), Selection(layers={}, left={}), told=told)


def whole(networks: Networks, name: str, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A part in full, on the CPU.

    networks: of its family.

    Raises ModelError if its files are not its own.

    Weights that have this dtype in the file lie on the mapped file, which the system may drop and read again.
    """
    module = networks.empty(name, folder)
    part = part_of(networks, name, folder, module, Selection(layers={}, left={}))
    owners: dict[str, list[str]] = {}
    for wanted in held(module):
        owners.setdefault(part.sources.get(wanted, wanted), []).append(wanted)

    def found() -> Iterator[Piece]:
        for source, tensor in part.tensors.all():
            for wanted in owners.get(source, ()):
                kept = shaped(networks.as_read(name, tensor), module, wanted)
                # Copied where it is a part of what was read, or all of that would stay.
                kept = kept if kept.numel() == tensor.numel() else kept.clone(memory_format=torch.contiguous_format)
                yield Piece(wanted, kept.to(dtype_of(module, wanted, dtype)) if kept.is_floating_point() else kept)

    assemble(networks, module, name, found(), dtype)
    return module


def survey(folder: Path, how: Quantizing) -> dict[str, Part]:
    """All that is to be quantized of a model folder.

    Raises InputError for layers that are not there, ModelError if the files are not those of the parts.
    """
    networks = how.networks
    modules = {name: networks.empty(name, folder / name) for name in how.parts}
    return {
        name: part_of(networks, name, folder / name, modules[name], selection, how.additions)
        for name, selection in selections(modules, how.skip, networks.policy).items()
    }


def part_of(
    networks: Networks,
    name: str,
    folder: Path,
    module: torch.nn.Module,
    selection: Selection,
    additions: Additions | None = None,
    *,
    told: Path | None = None,
) -> Part:
    """One part of a model, in its folder; the headers of its files are compared with it.

    module: it, on meta.
    told: what the folder is called in a sentence; None: as it is.
    """
    described = networks.architecture.part(name)
    tensors = tensors_of(folder)
    wanted = {key: tuple(tensor.shape) for key, tensor in held(module).items()}
    other_names = functools.partial(networks.architecture.other_names, name)
    renamed = sources(described.prefixes, wanted, tensors.names(), _tied(module), other_names)
    found = {key: networks.shape_read(name, shape) for key, shape in tensors.shapes().items()}
    for key, source in renamed.items():
        if found[source] == (math.prod(wanted[key]),):
            found[source] = wanted[key]
    check_names(
        described.harmless, told or folder, wanted, found, renamed, functools.partial(_in_blocks, described, module)
    )
    return Part(name, module, tensors, selection, renamed, additions)


def _in_blocks(described: Any, module: torch.nn.Module, name: str) -> bool:
    """Whether a tensor of the files belongs to one of the blocks that a part has here."""
    for prefix in ("", *described.prefixes):
        for of in described.blocks:
            blocks: Any = module.get_submodule(of)
            number = name.removeprefix(f"{prefix}{of}.").partition(".")[0]
            if name.startswith(f"{prefix}{of}.") and number.isdecimal() and int(number) < len(blocks):
                return True
    return False


def shaped(tensor: torch.Tensor, module: torch.nn.Module, name: str) -> torch.Tensor:
    """A tensor of the files as a module holds it, where it is flat in the files and not here."""
    owner, _, leaf = name.rpartition(".")
    wanted = getattr(module.get_submodule(owner), leaf).shape
    return tensor.view(wanted) if tensor.ndim == 1 and tensor.numel() == wanted.numel() else tensor


def held(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name → tensor of all that a module's files hold: parameters, and numbers that are stored with them."""
    buffers = {
        f"{path}.{leaf}" if path else leaf: buffer
        for path, inner in module.named_modules()
        for leaf, buffer in inner._buffers.items()
        if buffer is not None and leaf not in inner._non_persistent_buffers_set and buffer.is_floating_point()
    }
    return {**dict(module.named_parameters()), **buffers}


def pieces(part: Part, how: Quantizing, dtype: torch.dtype, *, plain: bool = False) -> Iterator[Piece]:
    """The pieces of a part, read, given their LoRAs and quantized one after the other.

    plain: tensors that are not quantized keep the dtype of the file.
    """
    additions = part.additions
    changed = additions.layers(part.name) if additions is not None else ()
    # Listed now: whoever puts the pieces into the module changes its names.
    others = [name for name in held(part.module) if name.rpartition(".")[0] not in part.selection.layers]
    # The largest first, while little else is held: what rounding a layer takes for itself is several times the layer.
    for name in sorted(part.selection.layers, key=lambda name: -_weights(part, name)):
        one_token = part.selection.layers[name]
        linear = _linear(part, name, dtype_of(part.module, name, dtype), how.device)
        lora = None
        if additions is not None and name in changed:
            if (effect := additions.effect(part.name, name)) is not None:
                lora = FusedLora(effect, quantized_output(linear, how.implementation, one_token=one_token))
            for leaf, old in list(linear.named_parameters()):
                new = additions.added(old.detach(), part.name, name, leaf)
                setattr(linear, leaf, torch.nn.Parameter(new, requires_grad=False))
        module, layer = convert(linear, how.implementation, name=name, one_token=one_token, lora=lora)
        yield Piece(name, module.to(how.home), layer)
    for name in others:
        tensor = shaped(part.tensors.read(part.sources.get(name, name)), part.module, name)
        as_it_is = plain or not tensor.is_floating_point()
        wanted = tensor.dtype if as_it_is else dtype_of(part.module, name, dtype)
        owner, _, leaf = name.rpartition(".")
        if additions is not None and owner in changed:
            tensor = additions.added(tensor.to(wanted), part.name, owner, leaf)
        yield Piece(name, tensor.to(how.home, wanted))
    if additions is not None:
        additions.check(part.name)


def load_part(part: Part, how: Quantizing, dtype: torch.dtype) -> tuple[torch.nn.Module, Converted]:
    """A part with its quantized layers in it, and what became of it."""
    layers = assemble(how.networks, part.module, part.name, pieces(part, how, dtype), dtype)
    for device in {"cpu", how.device.type}:
        give_back_freed_memory(device)
    return part.module, converted(part, layers)


def converted(part: Part, layers: Iterable[Layer]) -> Converted:
    """What became of a part, its layers in the order in which they lie in it."""
    by_name = {layer.name: layer for layer in layers}
    ordered = tuple(by_name[name] for name in part.selection.layers)
    return Converted(part=part.name, layers=ordered, left=part.selection.left)


def assemble(
    networks: Networks, module: torch.nn.Module, part: str, found: Iterator[Piece], dtype: torch.dtype
) -> tuple[Layer, ...]:
    """Puts pieces into a module on the meta device, until none of it is left there. Raises ModelError if one is."""
    layers = []
    read = read_of(part, sum(tensor.numel() for tensor in held(module).values()))
    for piece in found:
        read(_numbers(module, piece))
        if isinstance(piece.content, torch.nn.Module):
            wanted = dtype_of(module, piece.name, dtype)
            place(module, piece.name, networks.as_used(part, piece.name, piece.content, wanted))
            if piece.layer is not None:
                layers.append(piece.layer)
        else:
            owner, _, leaf = piece.name.rpartition(".")
            inner: Any = module.get_submodule(owner)
            parameter = leaf in inner._parameters
            if getattr(inner, leaf).shape != piece.content.shape:
                raise ModelError(f"The {part}'s files hold another model's {piece.name}; download the whole model.")
            if parameter:
                inner._parameters[leaf] = torch.nn.Parameter(piece.content, requires_grad=False)
            else:
                inner._buffers[leaf] = piece.content
    _tie(module)
    gaps = [name for name, tensor in module.named_parameters() if tensor.is_meta]
    if gaps:
        raise ModelError(
            f"The {part} lacks {len(gaps)} of its weights, {gaps[0]!r} among them, or its files hold another model's; "
            "download the whole model."
        )
    return tuple(layers)


def _numbers(module: torch.nn.Module, piece: Piece) -> int:
    """How many numbers of a module a piece takes the place of."""
    if isinstance(piece.content, torch.Tensor):
        return piece.content.numel()
    return sum(parameter.numel() for parameter in module.get_submodule(piece.name).parameters())


def _tie(module: Any) -> None:
    """Makes one of what is one: parameters, or a packed table that takes the place of one of them."""
    pairs = [(one.rpartition(".")[0], other.rpartition(".")[0]) for one, other in _tied(module).items()]
    packed = False
    for one, other in pairs:
        for here, there in ((one, other), (other, one)):
            if isinstance(table := module.get_submodule(here), PackedEmbedding):
                place(module, there, table)
                packed = True
    tie: Any = getattr(module, "tie_weights", None)
    if tie is not None and not packed:
        tie()


def _weights(part: Part, name: str) -> int:
    layer: Any = part.module.get_submodule(name)
    return int(layer.weight.numel())


def _linear(part: Part, name: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Linear:
    empty_: Any = part.module.get_submodule(name)
    names = {leaf: part.sources.get(f"{name}.{leaf}", f"{name}.{leaf}") for leaf in ("weight", "bias")}
    weight = part.tensors.read(names["weight"], window=True).to(device, dtype)
    bias = None if empty_.bias is None else part.tensors.read(names["bias"]).to(device, dtype)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    return linear


def _tied(module: Any) -> dict[str, str]:
    """Parameter → the one that it is one with."""
    tied = getattr(module, "_tied_weights_keys", None)
    return dict(tied) if isinstance(tied, Mapping) else {}


def dtype_of(module: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a tensor of a part has when the part is loaded in ``dtype``, as the part's library has it.

    What a class keeps in float32, transformers keeps so in float16 alone, and diffusers in every dtype.
    """
    wide = getattr(module, "_keep_in_fp32_modules", None) or ()
    always = any(base.__module__.startswith("diffusers.") for base in type(module).__mro__)
    kept = (always or dtype is torch.float16) and not set(wide).isdisjoint(name.split("."))
    return torch.float32 if kept else dtype
