"""A model folder becomes a FluxPipeline of diffusers, on the right device, with our attention and quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError
from dit360_core.flux.files import check_model_folder, existing, read_json
from dit360_core.flux.hub import MODEL_FILES, fetch
from dit360_core.flux.quiet import quiet
from dit360_core.plan import looks_like_hub_id
from dit360_core.precision import torch_dtype


def locate(base: str) -> Path:
    """The folder of a model given as folder or Hub id, checked. Raises ModelError."""
    folder = existing(base)
    if folder is None and looks_like_hub_id(base):
        folder = fetch(base, MODEL_FILES)
    if folder is None:
        raise ModelError(f"There is no folder {base}; give a diffusers folder, a Hub id, or a known model name.")
    check_model_folder(folder)
    return folder


def transformer_shape(folder: Path) -> tuple[int, int, bool]:
    """Heads, head_dim and whether guidance is embedded, from the configuration of the transformer in a folder."""
    file = folder / "transformer" / "config.json"
    config = read_json(file)
    heads, head_dim = config.get("num_attention_heads", 24), config.get("attention_head_dim", 128)
    if not (isinstance(heads, int) and isinstance(head_dim, int) and heads > 0 and head_dim > 0):
        raise ModelError(f"{file} says {heads!r} heads of {head_dim!r} channels, which cannot be; download it again.")
    return heads, head_dim, bool(config.get("guidance_embeds", False))


def load_pipeline(folder: Path, precision: str) -> Any:
    """A diffusers FluxPipeline on the CPU. Raises ModelError if the files do not fit together."""
    with quiet():
        import diffusers

        pipeline_class: Any = diffusers.FluxPipeline
        try:
            return pipeline_class.from_pretrained(
                str(folder), torch_dtype=torch_dtype(precision), use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{folder} cannot be loaded ({first}); its parts do not fit together.") from error
