"""Parts of a model in memory: read in full from their folders, or quantized where they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from dit360_core.errors import InputError, ModelError, first_line
from dit360_core.models.architecture import Networks
from dit360_core.models.libraries import explain_broken_import
from dit360_core.models.weights.conversion import Converted, quantize_module
from dit360_core.models.weights.quiet import default_dtype_kept, quiet
from dit360_core.models.weights.selection import selections
from dit360_core.models.weights.stream import whole
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.memory import explain_full_memory, is_out_of_memory

if TYPE_CHECKING:
    from dit360_core.plugins.offers import QuantizerImplementation

_WRONG = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, StrictDataclassError)
"""What the libraries raise for files that do not fit together."""


@contextmanager
def explain_libraries(folder: Path) -> Iterator[None]:
    """The many errors of diffusers and transformers in this block, and their chatter, as one sentence.

    folder: of the model that they read.

    Raises ModelError.
    """
    full = explain_full_memory(f"loading {folder}", "cpu")
    with quiet(), default_dtype_kept(), full, explain_broken_import():
        try:
            yield
        except _WRONG as error:
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            if str(error).startswith("Failed to import"):
                raise
            raise ModelError(
                f"{folder} cannot be loaded ({first_line(error)}); its parts do not fit together."
            ) from error


def load_parts(
    networks: Networks, folder: Path, precision: str, names: Collection[str], ready: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Parts of a model on the CPU.

    folder: the model's.
    precision: fp32, bf16 or fp16.
    names: of the parts wanted.
    ready: parts that are there already, such as quantized ones, wherever they are.

    Raises ModelError if their files are not theirs.
    """
    with explain_libraries(folder):
        parts = dict(ready or {})
        for name in names:
            if name not in parts:
                dtype = torch_dtype(networks.architecture.precision_of(name, precision))
                parts[name] = whole(networks, name, folder / name, dtype)
        return parts


def quantize_loaded(
    networks: Networks, pipe: Any, quantizer: QuantizerImplementation | None, parts: tuple[str, ...], skip: str
) -> tuple[Converted, ...]:
    """Quantizes parts of a loaded pipeline in place.

    quantizer: None leaves them as they are.
    parts: their names.
    skip: as in ``quantization_skip``.

    Raises InputError for parts that are not there, hold a LoRA beside their weights, or are offloaded.
    """
    if quantizer is None:
        return ()
    modules: dict[str, Any] = {part: module for part in parts if (module := getattr(pipe, part, None)) is not None}
    if not modules:
        raise InputError(f"There is no {' and no '.join(parts)} in this pipeline to quantize; name another part.")
    for part, module in modules.items():
        layers = list(module.modules())
        if any(hasattr(layer, "base_layer") for layer in layers):
            raise InputError(
                f"A LoRA is attached to the {part}, which would be quantized with it; fuse it or unload it first."
            )
        if any(hasattr(layer, "_hf_hook") for layer in layers):
            raise InputError(f"The {part} is offloaded already; quantize the pipeline first, and switch that on then.")
    return tuple(
        quantize_module(modules[part], quantizer, selection, part=part, as_used=networks.as_used)
        for part, selection in selections(modules, skip, networks.policy).items()
    )
