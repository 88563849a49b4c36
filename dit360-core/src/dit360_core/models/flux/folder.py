"""Checks a model folder or LoRA file before anything heavy is imported: parts, formats, truncation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, ModelError
from dit360_core.models.flux.schemas import SCHEMAS, check_part, check_together
from dit360_core.models.flux.tokenizers import check_tokenizer, check_vocabulary
from dit360_core.models.weights.headers import (
    PICKLED,
    check_numbers,
    header,
    refuse_pickle,
    tensor_files,
    variant_of,
    weight_files,
)
from dit360_core.models.weights.schema import name_of, read_json, tell_others
from dit360_core.plugins.defaults import check_defaults, lower_first
from dit360_core.plugins.offers import Model

log = logging.getLogger("dit360")

WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
PARTS = (*WEIGHTS, *TOKENIZERS, "scheduler")
STORED = "quantization.json"
"""In the folder of a part that is stored quantized."""
SETTINGS = "dit360.json"
"""In a model's folder: what the name of the model that it was made from stood for."""
KEPT = (
    "prompt_prefix", "width", "height", "steps", "guidance", "circular_padding", "latent_rotation",
    "position_interpolation", "precision",
)  # fmt: skip
"""Of a model, what its files do not tell."""
_WRITTEN = {"format", "made_from", "model", "loras", "lora", "vae", "t5"}
"""The keys of that file: ``lora`` of folders that were written when there could be one."""
_DAMAGED = "{} is damaged ({}); delete it to use defaults."
LIBRARIES = ("diffusers", "transformers")
"""From which the parts of a model come. Older versions of diffusers import whatever else a model's folder names."""
PIPELINES = (
    "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxKontextPipeline", "FluxKontextInpaintPipeline",
)  # fmt: skip
"""That paint from a prompt with the parts of a FluxPipeline."""
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


def existing(name: str) -> Path | None:
    """The file or folder that a user means by a text, with ``~`` expanded; None if there is no such thing."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a file's name; the home of nobody; a null character
        return None


def check_model_folder(folder: Path) -> None:
    """Raises ModelError unless the folder is a complete diffusers FLUX pipeline with whole safetensors files."""
    refuse_single_file(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{folder} is no diffusers model: it has no model_index.json; give the folder that "
            "FluxPipeline.save_pretrained wrote."
        )
    _check_index(index)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
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
    for part in PARTS:
        made = described.get(part, LIBRARIES)
        if not (isinstance(made, (list, tuple)) and made and made[0] in (None, *LIBRARIES)):
            raise ModelError(
                f"{index} wants code for its {part} that is neither of diffusers nor of transformers ({made!r:.60}), "
                "which dit360 does not run; give another model."
            )
        allowed = CLASSES.get(part, ())
        if part in described and allowed and made[0] is not None and (len(made) != 2 or made[1] not in allowed):
            raise ModelError(
                f"{index} says that its {part} is {made[1:]!r:.60}, and a FLUX model's is {allowed[0]}; give a FLUX "
                "folder."
            )


_OTHERS = {
    "FluxFillPipeline": "fills holes in pictures",
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


def with_settings(model: Model, folder: Path) -> Model:
    """A model given by its folder alone, with what the folder tells of size, prompt prefix, steps and so on."""
    if model.name != "given":
        return model
    if (folder / "transformer" / "config.json").is_file():
        config = read_config("transformer", folder / "transformer")
        model = like_schnell(model) if not config.get("guidance_embeds", False) else model
    file = folder / SETTINGS
    if not file.is_file():
        return model
    settings = read_json(file)
    told = settings.get("model")
    if not isinstance(told, dict):
        raise ModelError(_DAMAGED.format(file, f"its model is {told!r:.60}"))
    tell_others(file, [*(settings.keys() - _WRITTEN), *(f"model.{key}" for key in told.keys() - set(KEPT))])
    try:
        made = attrs.evolve(model, **{name: told[name] for name in KEPT if name in told})
        check_defaults(made)
    except InputError as error:
        raise ModelError(_DAMAGED.format(file, lower_first(str(error)).rstrip("."))) from error
    except (TypeError, ValueError) as error:
        # Of attrs, with the field and the value: its own sentence speaks of Python's classes.
        _, field, _, value = error.args
        raise ModelError(_DAMAGED.format(file, f"its {field.name} is {value!r:.60}")) from error
    return made


def like_schnell(model: Model) -> Model:
    """A model given by its files alone whose transformer takes no guidance: FLUX.1-schnell and what is made of it."""
    return attrs.evolve(model, steps=SCHNELL_STEPS)


SCHNELL_STEPS = 4


def remembered_loras(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """What a model's folder tells of the LoRAs that are in its stored weights."""
    file = folder / SETTINGS
    told = read_json(file) if file.is_file() else {}
    # Folders that were written when there could be one LoRA have it by itself.
    loras = told.get("loras", [] if told.get("lora") is None else [told["lora"]])
    if not isinstance(loras, list) or not all(isinstance(lora, dict) and "from" in lora for lora in loras):
        raise ModelError(f"{file} is damaged (its loras are {loras!r:.60}); quantize the model again.")
    return tuple(loras)


def refuse_single_file(path: Path) -> None:
    """Raises ModelError for a file where a folder belongs, and for a path that is not there."""
    if path.is_file():
        refuse_pickle(path)
        raise ModelError(f"{path} is a single file; give the diffusers folder of the model (with model_index.json).")
    if not path.is_dir():
        raise ModelError(f"There is no folder {path}; give a diffusers folder, a Hub id, or a known model name.")


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


def find_lora_file(path: Path) -> Path:
    """The LoRA file meant by a path: itself, or the one in a folder. Raises ModelError if there is none or several."""
    if path.is_file():
        refuse_pickle(path)
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{path} is no safetensors file; give the LoRA's .safetensors file or its folder.")
        return path
    if not path.is_dir():
        raise ModelError(f"There is no LoRA {path}; give a safetensors file, a folder, or a Hub id (owner/name).")
    for usual in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (path / usual).is_file():
            return path / usual
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{path} holds {len(found)} safetensors files; name one of them, such as {found[0].name}.")
    for pickled in sorted(p for p in path.iterdir() if p.suffix.lower() in PICKLED):
        refuse_pickle(pickled)
    raise ModelError(f"{path} holds no safetensors file; give the folder with the LoRA's weights.")
