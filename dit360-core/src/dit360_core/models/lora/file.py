"""Reads a LoRA file: every tensor is a part of some layer's factors, or is told, or the file is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dit360_core.errors import ModelError, first_line, named
from dit360_core.models.architecture import DENOISER, Architecture, Target
from dit360_core.models.lora import keys as kinds
from dit360_core.models.lora.factors import Factors
from dit360_core.models.lora.scales import Settings, checked_alpha, header_of, settings_of


@attrs.frozen(kw_only=True, eq=False)
class Entry:
    """One layer of a file.

    stem: its name there.
    keys: its tensors there.
    """

    stem: str
    target: Target
    factors: Factors
    keys: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False)
class LoraFile:
    """A LoRA file, read.

    architecture: the family whose layers it was read for.
    tensors: how many it holds.
    unread: why → tensors that are no part of any layer.
    """

    architecture: Architecture
    file: Path
    entries: tuple[Entry, ...]
    tensors: int
    unread: Mapping[str, tuple[str, ...]]
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> frozenset[str]:
        """The parts of a model that it changes."""
        return frozenset(entry.target.part for entry in self.entries)

    def check_denoiser_only(self) -> None:
        """Raises ModelError if it changes text encoders, for whoever can only add to a transformer that is loaded."""
        if others := sorted(self.parts - {DENOISER}):
            count = sum(entry.target.part in others for entry in self.entries)
            words = " and ".join(self.architecture.part(part).short for part in others)
            raise ModelError(
                f"{self.file} also changes {words} ({count} of its {len(self.entries)} layers), which read the prompt "
                f"before it is added; give it when the model is loaded ({named('lora')}), or another file."
            )


NO_NAME = "have names of no layer of {}"
LONE_ALPHA = "are alphas of layers without factors"


def read(file: Path, architecture: Architecture) -> LoraFile:
    """A LoRA in any of the formats of ``docs/loras.md``. Raises ModelError if it is none for this family."""
    try:
        raw = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read as a LoRA ({first_line(error)}); download it again.") from error
    if other := kinds.other_kind(raw):
        raise ModelError(
            f"{file} is {other[0]}, and no LoRA of plain factors (it holds {other[1]!r:.80}); give a LoRA, or merge it "
            "into the model with the program that it was trained with."
        )
    layers: dict[str, dict[str, str]] = {}
    targets: dict[str, Target] = {}
    unread: dict[str, list[str]] = {}
    no_name = NO_NAME.format(architecture.lora_layers)
    adapters = set()
    for key in raw:
        parsed = kinds.parse(key)
        target = None if parsed is None else targets.get(parsed.stem) or architecture.target(parsed.stem)
        if parsed is None or target is None:
            unread.setdefault(no_name, []).append(key)
            continue
        targets[parsed.stem] = target
        if parsed.kind in (kinds.DOWN, kinds.UP):
            adapters.add(parsed.adapter)
        layer = layers.setdefault(parsed.stem, {})
        if parsed.kind in layer and len(adapters) < 2:
            raise ModelError(f"{file} holds {layer[parsed.kind]!r} and {key!r}, which are one; give another file.")
        layer[parsed.kind] = key
    if len(adapters) > 1:
        raise ModelError(
            f"{file} holds several adapters ({', '.join(sorted(map(repr, adapters)))[:80]}); give a file of one."
        )
    for stem in [stem for stem, layer in layers.items() if set(layer) == {kinds.ALPHA}]:
        unread.setdefault(LONE_ALPHA, []).append(layers.pop(stem)[kinds.ALPHA])
    _check_is_one(file, raw, layers, architecture)
    _check_is_of_this_family(file, unread.get(no_name, ()), targets, architecture)
    settings = settings_of(file, architecture.names)
    entries = tuple(
        Entry(
            stem=stem, target=targets[stem], keys=tuple(layer.values()),
            factors=_factors(file, stem, {kind: raw[key] for kind, key in layer.items()}, targets[stem], settings),
        )
        for stem, layer in layers.items()
    )  # fmt: skip
    return LoraFile(
        architecture=architecture,
        file=file,
        entries=entries,
        tensors=len(raw),
        unread={why: tuple(keys) for why, keys in unread.items()},
        remarks=_unused_header(file, layers, settings),
    )


def _check_is_one(
    file: Path, raw: Mapping[str, object], layers: Mapping[str, Mapping[str, str]], architecture: Architecture
) -> None:
    added = [stem for stem, layer in layers.items() if set(layer) - {kinds.NEW_WEIGHT, kinds.NEW_BIAS, kinds.ALPHA}]
    if added:
        return
    if layers:
        raise ModelError(
            f"{file} holds no LoRA but {len(layers)} layers' own weights, such as {next(iter(layers))!r}; give a LoRA "
            "file."
        )
    raise ModelError(
        f"{file} holds no LoRA for {architecture.title}: none of its {len(raw)} tensors is for a layer of "
        f"{architecture.lora_layers}{_such_as(raw)}; give a LoRA made for {architecture.title}."
    )


def _check_is_of_this_family(
    file: Path, unknown: Iterable[str], targets: Mapping[str, Target], architecture: Architecture
) -> None:
    """Raises ModelError for a LoRA of another family, of which a text encoder is all that this one has as well."""
    if any(target.part == DENOISER for target in targets.values()):
        return
    others = [key for key in unknown if kinds.is_of_a_transformer(key)]
    if others:
        raise ModelError(
            f"{file} was made for another family of models: none of its {len(others)} tensors for what paints"
            f"{_such_as(others)} is for a layer of {architecture.title}; give a LoRA made for it."
        )


def _such_as(keys: Iterable[str]) -> str:
    first = next(iter(keys), None)
    return "" if first is None else f" (the first is {first!r:.100})"


def _factors(
    file: Path, stem: str, found: Mapping[str, torch.Tensor], target: Target, settings: Mapping[str, Settings]
) -> Factors:
    for kind, tensor in found.items():
        if not tensor.is_floating_point() and kind != kinds.ALPHA:
            raise ModelError(f"{file} holds {tensor.dtype} numbers in its layer {stem}, and no factors; give another.")
        if not bool(tensor.float().isfinite().all()) and kind != kinds.ALPHA:
            raise ModelError(f"{file} holds numbers that are not finite, in its layer {stem}; download it again.")
    alone = {kinds.DOWN, kinds.UP} & set(found)
    if len(alone) == 1:
        raise ModelError(f"{file} holds only one factor of its layer {stem}; download it again.")
    down, up, bias = None, None, found.get(kinds.DIFF_BIAS)
    if alone:
        down, up = _matrix(found[kinds.DOWN]), _matrix(found[kinds.UP])
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"{file} holds factors of its layer {stem} that do not fit together ({tuple(down.shape)} and "
                f"{tuple(up.shape)}); download it again."
            )
        rank = down.shape[0]
        if not rank or not down.numel() or not up.numel():
            raise ModelError(f"{file} holds factors of rank 0 in its layer {stem}, which are nothing; give another.")
        scale = _scale(file, stem, found, rank, target, settings)
        trained_bias = found.get(kinds.UP_BIAS)
        if kinds.DOWN_BIAS in found:
            carried = up.float() @ found[kinds.DOWN_BIAS].float().flatten()
            trained_bias = carried if trained_bias is None else trained_bias.float() + carried
        if trained_bias is not None:
            bias = trained_bias.float() * scale + (0 if bias is None else bias.float())
        up = _wide(up) if scale == 1 else up.float() * scale
        down = _wide(down)
    weight, outputs = found.get(kinds.DIFF), None if up is None else up.shape[0]
    if bias is not None and (bias.ndim != 1 or outputs not in (None, bias.shape[0])):
        raise ModelError(f"{file} holds a bias of its layer {stem} that does not fit; download it again.")
    return Factors(
        down=down, up=up, bias=None if bias is None else _wide(bias), weight=None if weight is None else _wide(weight),
        new_weight=found.get(kinds.NEW_WEIGHT), new_bias=found.get(kinds.NEW_BIAS),
    )  # fmt: skip


def _scale(
    file: Path,
    stem: str,
    found: Mapping[str, torch.Tensor],
    rank: int,
    target: Target,
    settings: Mapping[str, Settings],
) -> float:
    """alpha / rank: the tensor beside the factors says it, or else the settings."""
    alpha = found.get(kinds.ALPHA)
    if alpha is None:
        said = settings.get(target.part)
        return 1.0 if said is None else said.scale((stem, *target.modules), rank)
    if alpha.numel() != 1:
        raise ModelError(f"{file} holds {alpha.numel()} numbers as the alpha of its layer {stem}; download it again.")
    return checked_alpha(alpha.item(), f"{file} (layer {stem})") / rank


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Without the two sides of length 1 that some write as if a Linear layer were a convolution."""
    return tensor.flatten(1) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """As it is, or in 32 bits where it is stored in eight, with which nothing can be computed."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _unused_header(
    file: Path, layers: Mapping[str, Mapping[str, str]], settings: Mapping[str, Settings]
) -> tuple[str, ...]:
    """Kohya's trainer also writes alpha into the header, by which no program goes; told where nothing else says it."""
    header = header_of(file)
    alpha, rank = header.get("ss_network_alpha"), header.get("ss_network_dim")
    if settings or alpha in (None, rank) or any(kinds.ALPHA in layer for layer in layers.values()):
        return ()
    try:
        if float(alpha or "nan") == float(rank or "nan"):
            return ()
    except ValueError:
        pass
    return (
        f"{file}: its header says alpha {alpha:.20} for rank {rank or '?':.20} (ss_network_alpha), but none of its "
        "tensors does; used as its tensors say, unscaled.",
    )


def in_words(unread: Mapping[str, Iterable[str]]) -> str:
    """``3 have names … (such as 'x'), 2 are …``"""
    told = {why: list(keys) for why, keys in unread.items()}
    return ", ".join(f"{len(keys)} {why} (such as {keys[0]!r:.100})" for why, keys in told.items())
