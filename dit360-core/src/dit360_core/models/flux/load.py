"""A model folder becomes a FluxPipeline of diffusers, on the right device, with our attention and quantization."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit360_core.errors import InputError, ModelError, first_line
from dit360_core.models.flux.folder import TOKENIZERS, WEIGHTS, check_model_folder, existing, read_config
from dit360_core.models.flux.schemas import told
from dit360_core.models.flux.tokenizers import check_numbers_of_tokens, load_tokenizer
from dit360_core.models.weights.hub import MODEL_FILES, fetch, told_of_the_cache
from dit360_core.models.weights.quiet import default_dtype_kept, quiet
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.memory import is_out_of_memory, told_when_full
from dit360_core.system.naming import looks_like_hub_id

if TYPE_CHECKING:
    from dit360_core.models.weights.conversion import Converted
    from dit360_core.plugins.offers import Attend, QuantizerImplementation


def locate(base: str) -> Path:
    """The folder of a model given as folder or Hub id, checked. Raises ModelError."""
    folder = existing(base)
    if folder is None and looks_like_hub_id(base):
        folder = fetch(base, MODEL_FILES)
        with told_of_the_cache(base):
            check_model_folder(folder)
        return folder
    if folder is None:
        raise ModelError(f"There is no folder {base}; give a diffusers folder, a Hub id, or a known model name.")
    check_model_folder(folder)
    return folder


def transformer_shape(folder: Path) -> tuple[int, int, bool]:
    """Heads, head_dim and whether guidance is embedded, from the configuration of the transformer in a folder."""
    config = read_config("transformer", folder / "transformer")
    heads, head_dim, guided = (
        told("transformer", config, key) for key in ("num_attention_heads", "attention_head_dim", "guidance_embeds")
    )
    return heads, head_dim, guided


def load_pipeline(folder: Path, precision: str) -> Any:
    """A diffusers FluxPipeline on the CPU. Raises ModelError if the files do not fit together."""
    return assemble_pipeline(folder, load_parts(folder, precision, WEIGHTS))


def load_parts(
    folder: Path, precision: str, names: Collection[str], ready: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Parts of a model on the CPU. Raises ModelError if their files are not theirs.

    ready: parts that are there already, such as quantized ones, wherever they are.
    The autoencoder computes in float32 where the rest is fp16, in which FLUX's overflows to black pictures.
    """
    from dit360_core.models.weights.stream import whole  # imports torch

    dtype = torch_dtype(precision)
    with _told(folder):
        wide = torch_dtype("fp32") if precision == "fp16" else dtype
        parts = dict(ready or {})
        for name in names:
            if name not in parts:
                parts[name] = whole(name, folder / name, wide if name == "vae" else dtype)
        return parts


def assemble_pipeline(folder: Path, parts: Mapping[str, Any]) -> Any:
    """A FluxPipeline of these parts, None for those that are read later, and the folder's tokenizers and scheduler.

    Nothing in the folder says which classes they are of, or reaches them unseen.
    """
    with _told(folder):
        import diffusers

        configs = {part: read_config(part, folder / part) for part in ("text_encoder", "text_encoder_2", "scheduler")}
        tokenizers = {}
        for name, part in zip(TOKENIZERS, ("text_encoder", "text_encoder_2"), strict=True):
            positions = told(part, configs[part], "max_position_embeddings") if name == "tokenizer" else None
            tokenizers[name] = load_tokenizer(name, folder / name, positions)
            check_numbers_of_tokens(folder / name, tokenizers[name], told(part, configs[part], "vocab_size"))
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler
        pipeline: Any = diffusers.FluxPipeline
        return pipeline(scheduler=scheduler.from_config(configs["scheduler"]), **tokenizers, **parts)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """The libraries' many errors, and their chatter, as one sentence."""
    with quiet(), default_dtype_kept(), told_when_full(f"loading {folder}", "cpu"):
        from huggingface_hub.errors import StrictDataclassError

        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, StrictDataclassError) as error:
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            if str(error).startswith("Failed to import"):
                # diffusers and transformers import their parts only now, and say the cause on the last line.
                cause = str(error).strip().rpartition("\n")[2]
                raise ModelError(
                    f"diffusers or transformers cannot be imported here ({cause}); repair or uninstall what that names."
                ) from error
            raise ModelError(
                f"{folder} cannot be loaded ({first_line(error)}); its parts do not fit together."
            ) from error


def quantize_loaded(
    pipe: Any, quantizer: QuantizerImplementation | None, parts: tuple[str, ...], skip: str
) -> tuple[Converted, ...]:
    """Quantizes parts of a loaded pipeline in place. None: leaves them as they are."""
    from dit360_core.models.flux.layers import selections
    from dit360_core.models.weights.conversion import quantize_module
    from dit360_core.models.weights.stream import as_used

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
        quantize_module(modules[part], quantizer, selection, part=part, as_used=as_used)
        for part, selection in selections(modules, skip).items()
    )


def compile_blocks(transformer: Any) -> None:
    """Compiles the blocks of a transformer: they are alike, so that one is compiled for all of a kind."""
    transformer.compile_repeated_blocks(fullgraph=True)


def attach(transformer: Any, attend: Attend, slice_size: int) -> None:
    """Gives a transformer our attention, ``slice_size`` queries at a time (0: all)."""
    from dit360_core.models.flux.processor import AttentionProcessor
    from dit360_core.plugins.slicing import sliced

    # Set on the processors that are replaced here, where ours would not see it.
    for processor in transformer.attn_processors.values():
        if getattr(processor, "_parallel_config", None) is not None:
            raise InputError(
                "Context parallelism is switched on for this transformer, which dit360's attention does not support; "
                "load it without."
            )
    transformer.set_attn_processor(AttentionProcessor(sliced(attend, slice_size) if slice_size else attend))
