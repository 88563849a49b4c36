"""Checks a model folder or LoRA file before anything heavy is imported: parts, formats, truncation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit360_core.errors import ModelError, named, remedy
from dit360_core.models.flux.parts import PARTS, PIPELINES, TOKENIZERS
from dit360_core.models.flux.schemas import SCHEMAS, check_part, check_together
from dit360_core.models.flux.tokenizers import check_tokenizer, check_vocabulary
from dit360_core.models.weights.files import STORED, refuse_single_file
from dit360_core.models.weights.headers import (
    check_numbers,
    header,
    tensor_files,
    variant_of,
    weight_files,
)
from dit360_core.models.weights.schema import name_of, read_json

log = logging.getLogger("dit360")

WEIGHTS = tuple(part.name for part in PARTS)
FOLDERS = (*WEIGHTS, *TOKENIZERS, "scheduler")
LIBRARIES = ("diffusers", "transformers")
"""From which the parts of a model come. Older versions of diffusers import whatever else a model's folder names."""
CLASSES: Mapping[str, tuple[str, ...]] = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
}
"""Part → what it is in a FLUX model. Of a scheduler only the time shift is asked, whichever it is."""
TYPES = {"text_encoder": ("clip_text_model",), "text_encoder_2": ("t5",)}
"""model_type of what transformers wrote."""


def check_model_folder(folder: Path) -> None:
    """Raises ModelError unless the folder is a complete diffusers FLUX pipeline with whole safetensors files."""
    refuse_single_file(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{folder} is no diffusers model: it has no model_index.json; {remedy('give_diffusers_folder')}."
        )
    _check_index(index)
    missing = [part for part in FOLDERS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; download the whole model, not a part of it.")
    configs = {part: read_config(part, folder / part) for part in (*WEIGHTS, "scheduler")}
    for part in TOKENIZERS:
        check_vocabulary(part, folder / part)
    for part in WEIGHTS:
        check_weights(part, folder / part)
    # What is whole by itself is compared, and what takes a process of its own comes last.
    check_together(folder, configs)
    for part in TOKENIZERS:
        check_tokenizer(part, folder / part)


def _check_index(index: Path) -> None:
    """Raises ModelError for a pipeline or a part that is not of the FLUX family."""
    described = read_json(index)
    made_by = described.get("_class_name")
    if made_by not in PIPELINES:
        what = _OTHERS.get(made_by) if isinstance(made_by, str) else None
        what = f", which {what}" if what else ""
        raise ModelError(
            f"{index.parent} holds a {name_of(made_by)}{what}, but dit360 runs FluxPipeline models; give a FLUX folder."
        )
    for part in FOLDERS:
        made = described.get(part, LIBRARIES)
        if not (isinstance(made, (list, tuple)) and made and made[0] in (None, *LIBRARIES)):
            raise ModelError(
                f"{index} wants code for its {part} that is neither of diffusers nor of transformers ({made!r:.60}), "
                f"which dit360 does not run; give another {named('model')}."
            )
        allowed = CLASSES.get(part, ())
        if part in described and allowed and made[0] is not None and (len(made) != 2 or made[1] not in allowed):
            raise ModelError(
                f"{index} says that its {part} is {made[1:]!r:.60}, and a FLUX model's is {allowed[0]}; give a FLUX "
                "folder."
            )


_OTHERS = {
    "FluxControlPipeline": "follows a control picture (Depth, Canny)",
    "FluxControlImg2ImgPipeline": "follows a control picture (Depth, Canny)",
    "FluxControlInpaintPipeline": "follows a control picture (Depth, Canny)",
    "Flux2Pipeline": "is FLUX.2",
    "Flux2KleinPipeline": "is FLUX.2",
}
"""Pipelines that people take for FLUX.1, and what they are."""


def check_weights(part: str, folder: Path) -> None:
    """Raises ModelError unless a part's files are whole, and hold numbers that mean something as they stand."""
    entries = {file: header(file) for file in weight_files(folder)}
    stored = (folder / STORED).is_file()
    config = {} if stored else read_json(folder / "config.json")
    if config.get("quantization_config") and part not in ("transformer", "text_encoder_2"):
        raise ModelError(
            f"{folder} is stored quantized, and dit360 reads a quantized transformer and T5 only; give the original "
            f"{part}."
        )
    if stored or config.get("quantization_config"):
        return
    if variant := variant_of(folder):
        log.info("%s: its weights are there as the variant %s alone, which is read", folder, variant)
    files = set(tensor_files(folder).values())
    for file, found in entries.items():
        if file in files:
            check_numbers(file, found)


def read_config(part: str, folder: Path) -> dict[str, Any]:
    """The configuration of a part in its folder, as far as dit360 knows its keys.

    Raises ModelError if there is none, if it is another kind of model's, or for values that cannot be.
    """
    file = folder / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not file.is_file():
        raise ModelError(f"{folder} has no {file.name}; download the whole model again.")
    found = read_json(file)
    for key, allowed in (("_class_name", CLASSES.get(part, ())), ("model_type", TYPES.get(part, ()))):
        if part in SCHEMAS and key in found and allowed and found[key] not in allowed:
            raise ModelError(
                f"{file} describes {name_of(found[key])}, and the {part} of a FLUX model is {allowed[0]}; give such "
                "a model."
            )
    return check_part(part, file, found)
