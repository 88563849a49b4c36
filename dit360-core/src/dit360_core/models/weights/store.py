"""A quantized model in a folder: written as it is quantized, and read back without the full weights.

The folder is a diffusers pipeline. Beside the weights of a quantized part lies ``quantization.json``: who made it, and
for each layer its kernel, bytes and error. ``dit360.json`` keeps what the model's name stood for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import save_file

from dit360_core.errors import Dit360Error, ModelError, first_line
from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture, Networks
from dit360_core.models.weights.conversion import Converted, Layer, bytes_of, trial_tokens
from dit360_core.models.weights.files import STORED
from dit360_core.models.weights.forms.description import PLAIN
from dit360_core.models.weights.forms.manifest import MANIFEST, manifest_in
from dit360_core.models.weights.headers import STEMS
from dit360_core.models.weights.schema import read_json
from dit360_core.models.weights.stream import (
    Part,
    Piece,
    Quantizing,
    assemble,
    converted,
    dtype_of,
    held,
    pieces,
    tensors_of,
)
from dit360_core.models.weights.tensors import Tensors
from dit360_core.plugins.choosing import Choice
from dit360_core.system.memory import is_out_of_memory

FORMAT = 1
METHOD = "dit360"
SHARD = 2 * 2**30
"""Bytes of a file. While a part is written, one of them is in memory."""


# --------------------------------------------------------------------------------------------------------- writing


def write_part(
    part: Part,
    how: Quantizing,
    dtype: torch.dtype,
    folder: Path,
    by: Choice,
    progress: Callable[[str, int, int], None] | None = None,
) -> Converted:
    """Quantizes a part into a folder that has its configuration already; never holds more of it than a shard."""
    layers: list[Layer] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for piece in pieces(part, how, dtype, plain=True):
            if isinstance(piece.content, torch.Tensor):
                if not bool(piece.content.float().isfinite().all()):  # fp8 cannot be asked
                    raise ModelError(
                        f"The {part.name} of this model holds numbers that are not finite, in {piece.name}; download "
                        "it again."
                    )
                yield piece.name, piece.content
                continue
            for key, value in piece.content.state_dict().items():
                yield f"{piece.name}.{key}", value
            if piece.layer is not None:
                layers.append(piece.layer)
                if progress is not None:
                    progress(part.name, len(layers), len(part.selection.layers))

    stem = "diffusion_pytorch_model" if part.name == DENOISER else "model"
    _write_shards(folder, stem, tensors())
    done = converted(part, layers)
    _write_json(
        folder / STORED,
        {
            "format": FORMAT,
            "mode": by.used,
            "distribution": by.distribution,
            "version": by.version,
            **done.as_dict(),
            "left": dict(done.left),
            "layers": {layer.name: _described(layer) for layer in done.layers},
        },
    )
    # So that other programs refuse weights that they would take for something else.
    config = read_json(folder / "config.json")
    _write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": METHOD, "mode": by.address}})
    return done


def _write_json(file: Path, told: dict[str, Any]) -> None:
    file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def _described(layer: Layer) -> dict[str, Any]:
    told = attrs.asdict(layer, filter=lambda field, value: field.name != "name" and value is not None)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in told.items()}


def _write_shards(folder: Path, stem: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    files: list[tuple[Path, list[str]]] = []
    total = held = 0

    def write() -> None:
        file = folder / f"{stem}-{len(files) + 1:05d}.safetensors"
        # "pt" is what transformers looks for in a file that it is to read.
        save_file(shards[0], file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", file)  # safetensors' files are for their owner alone
        files.append((file, list(shards[0])))
        shards[0] = {}

    for name, tensor in tensors:
        if held and held + tensor.nbytes > SHARD:
            write()
            held = 0
        shards[0][name] = tensor.cpu().contiguous()
        held += tensor.nbytes
        total += tensor.nbytes
    write()
    if len(files) == 1:
        files[0][0].rename(folder / f"{stem}.safetensors")
        return
    where = {}
    for number, (file, names) in enumerate(files, start=1):
        name = f"{stem}-{number:05d}-of-{len(files):05d}.safetensors"
        file.rename(folder / name)
        where.update(dict.fromkeys(names, name))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def copy_rest(
    architecture: Architecture, source: Path, target: Path, quantized: Iterable[str], dtype: torch.dtype
) -> None:
    """Everything of a model folder but the weights of the parts that are quantized.

    dtype: of what a single file has in fewer bits, and is not quantized here.
    """
    quantized = set(quantized)
    shutil.copyfile(source / "model_index.json", target / "model_index.json")
    for part in architecture.folders:
        (target / part).mkdir()
        wanted = [
            file
            for file in sorted((source / part).iterdir())
            if file.suffix.lower() in _TEXTS and file.is_file() and file.name != MANIFEST
        ]
        if part in architecture.names and part in quantized:
            wanted = [file for file in wanted if not file.name.endswith(".safetensors.index.json")]
        from_a_file = part in architecture.names and manifest_in(source / part) is not None
        if part in architecture.names and part not in quantized and not from_a_file:
            wanted += sorted(Tensors(source / part).files)
        for file in wanted:
            shutil.copyfile(file, target / part / file.name)
        if from_a_file and part not in quantized:
            stem = STEMS[0] if part in (DENOISER, AUTOENCODER) else STEMS[1]
            _write_shards(target / part, stem, _turned_back(source / part, dtype))


def _turned_back(part: Path, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a part that comes from a single file."""
    manifest = manifest_in(part)
    for name, tensor in tensors_of(part).all():
        full = manifest is None or manifest.tensors[name].form in PLAIN
        yield name, tensor if full else tensor.to(dtype)


_TEXTS = (".json", ".txt", ".model", ".jinja")
"""Configurations and vocabularies."""


# --------------------------------------------------------------------------------------------------------- reading


@attrs.frozen(kw_only=True)
class Stored:
    """What ``quantization.json`` says of a part.

    layers: name → what is told of it.
    """

    part: str
    mode: str
    distribution: str
    version: str
    layers: Mapping[str, Mapping[str, Any]]
    left: Mapping[str, str]

    @property
    def address(self) -> str:
        return f"{self.distribution}:{self.mode}"


def stored_parts(architecture: Architecture, folder: Path) -> dict[str, Stored]:
    """The parts of a model folder that are stored quantized. Raises ModelError if that is not to be understood."""
    found = {}
    for part in architecture.quantized_by("both"):
        file = folder / part / STORED
        if file.is_file():
            found[part] = _stored(part, file)
        elif config := read_json(folder / part / "config.json").get("quantization_config"):
            found[part] = _of_the_libraries(architecture, part, folder / part, config)
    if len({stored.address for stored in found.values()}) > 1:
        raise ModelError(f"{folder} holds parts quantized in different ways; quantize the whole model at once.")
    return found


def stored_bits(architecture: Architecture, folder: Path, weights: Callable[[str, str], int]) -> dict[str, float]:
    """Part → bits of a quantized weight, with scales, of the parts that a folder holds quantized.

    weights: how many a layer has, by part and name.
    """
    found = {}
    for part, stored in stored_parts(architecture, folder).items():
        told = {name: layer["bytes"] for name, layer in stored.layers.items() if "bytes" in layer}
        count = sum(weights(part, name) for name in told)
        found[part] = 8 * sum(told.values()) / count if count else {"int4": 4.5}.get(stored.mode, 8.1)
    return found


def _stored(part: str, file: Path) -> Stored:
    told = read_json(file)
    if told.get("format") != FORMAT:
        raise ModelError(
            f"{file} is of format {told.get('format')!r}, and this dit360 reads {FORMAT}; update dit360-core, or "
            "quantize the model again."
        )
    try:
        layers = {str(name): dict(layer) for name, layer in told["layers"].items()}
        if not all(
            isinstance(layer["one_token"], bool) and isinstance(layer["error"], int | float)
            for layer in layers.values()
        ):
            raise ValueError("a layer is described in another way")
        texts = [told[name] for name in ("mode", "distribution", "version")]
        return Stored(
            part=part, mode=str(texts[0]), distribution=str(texts[1]), version=str(texts[2]), layers=layers,
            left={str(name): str(why) for name, why in told["left"].items()},
        )  # fmt: skip
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{file} is damaged ({error}); quantize the model again.") from error


def _of_the_libraries(architecture: Architecture, part: str, folder: Path, config: Any) -> Stored:
    """A part that diffusers or transformers wrote with a quantization config of bitsandbytes."""
    if isinstance(config, dict) and config.get("quant_method") == METHOD:
        raise ModelError(f"{folder} lacks its {STORED}, without which its weights mean nothing; copy all files of it.")
    config = config if isinstance(config, dict) else {}
    mode, mark = (
        ("int4", ".weight.quant_state.bitsandbytes__nf4") if config.get("load_in_4bit") else ("int8-bnb", ".SCB")
    )
    names = Tensors(folder).names()
    layers = [name.removesuffix(mark) for name in names if name.endswith(mark)]
    if config.get("quant_method") != "bitsandbytes" or not layers:
        raise ModelError(
            f"{folder} was quantized in a way that dit360 does not read ({config.get('quant_method')}; it reads its "
            "own, and NF4 and LLM.int8 of bitsandbytes); give the original model, and quantize it here."
        )
    policy = architecture.networks.policy(part)
    return Stored(
        part=part,
        mode=mode,
        distribution="dit360-quant-bnb",  # whose layers keep bitsandbytes' state as it is
        version="(any)",
        layers={name: {"one_token": policy.sees_one_token(name), "error": None} for name in layers},
        left={},
    )


def restore_part(
    networks: Networks,
    stored: Stored,
    folder: Path,
    restore: Any,
    dtype: torch.dtype,
    *,
    device: torch.device,
    home: torch.device,
) -> tuple[torch.nn.Module, Converted]:
    """A part with its quantized layers, as they were stored.

    restore: the quantizer's.
    device, home: where layers compute, for which they are made, and where they rest.
    """
    module = networks.empty(stored.part, folder)
    tensors = Tensors(folder)

    def found() -> Iterator[Piece]:
        owners: dict[str, dict[str, str]] = {}
        plain = []
        for name in tensors.names():
            owner = _owner(name, stored.layers)
            if owner is None:
                plain.append(name)
            else:
                owners.setdefault(owner, {})[name.removeprefix(f"{owner}.")] = name
        for name, told in stored.layers.items():
            yield _restored(name, told, {k: tensors.read(v).to(device) for k, v in owners.get(name, {}).items()})
        there = {*held(module), *(name for name, _ in module.named_parameters(remove_duplicate=False))}
        for name in plain:
            tensor = tensors.read(name)
            if name not in there or not tensor.is_floating_point():
                raise ModelError(
                    f"{folder} holds tensors that are neither the model's nor are described in {STORED}: {name}; "
                    "quantize the model again."
                )
            yield Piece(name, tensor.to(home, dtype_of(module, name, dtype)))

    def _restored(name: str, told: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Piece:
        try:
            linear: Any = module.get_submodule(name)
            wanted = dtype_of(module, name, dtype)
            like = torch.nn.Linear(
                linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta", dtype=wanted
            )
            made = restore(like, state, one_token=told["one_token"]).eval().requires_grad_(False)
            x = trial_tokens(like.in_features, wanted, device)
            with torch.no_grad():
                out = made(x)
            if out.shape != (len(x), like.out_features) or not bool(out.isfinite().all()):
                raise ValueError("it computes nothing of use")
        except (KeyError, AttributeError, ValueError, RuntimeError, TypeError, IndexError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"The layer {name} of {folder} cannot be restored ({first_line(error)}); quantize the model again."
            ) from error
        size = bytes_of(made)
        before = wanted.itemsize * sum(tensor.numel() for tensor in like.parameters())
        if type(made) is torch.nn.Linear or size >= before:
            raise Dit360Error(f"The layer {name} was stored quantized and came back in full; tell the plugin's author.")
        layer = Layer(
            name=name,
            kernel=type(made).__name__,
            one_token=told["one_token"],
            bytes_before=before,
            bytes=size,
            error=told["error"],
        )
        return Piece(name, made.to(home), layer)

    layers = assemble(networks, module, stored.part, found(), dtype)
    return module, Converted(part=stored.part, layers=layers, left=stored.left)


def _owner(name: str, layers: Mapping[str, Any]) -> str | None:
    """The quantized layer that a tensor belongs to; its own name may hold dots (``weight.quant_state.…``)."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = ".".join(parts[:end])
        if owner in layers:
            return owner
    return None


# ---------------------------------------------------------------------------------------------------------- sizes


def weights_of(module: torch.nn.Module, chosen: Iterable[str], itemsize: int) -> tuple[int, int]:
    """(weights of the chosen layers, bytes of all others at ``itemsize`` each) of a part, which may be empty."""
    names = {f"{name}.weight" for name in chosen}
    numbers = {name: tensor.numel() for name, tensor in held(module).items()}
    inside = sum(number for name, number in numbers.items() if name in names)
    return inside, itemsize * (sum(numbers.values()) - inside)
