"""Checks a model folder or LoRA file before anything heavy is imported: parts, formats, truncation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError
from dit360_core.offers import Model

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
COUNTS = ("num_layers", "num_single_layers", "num_hidden_layers", "num_decoder_layers", "layers_per_block")
"""Of a configuration, what is built one by one, before the weights are looked at. FLUX has 38 of a kind."""
MOST_LAYERS = 1000
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")


class Damaged(ModelError):
    """A file of weights that is not as it was written."""


LIBRARIES = ("diffusers", "transformers")
"""From which the parts of a model come. Older versions of diffusers import whatever else a model's folder names."""

_PICKLE = "is a pickle by another name, which can run code when it is opened; get a safetensors release"
_PAGE = "is a web page and no weights; download it again, by 'hf download' or logged in"
_NO_SAFETENSORS = {
    b"pk\x03\x04": _PICKLE,
    b"\x80": _PICKLE,
    b"version https://git-lfs": "only says where Git LFS keeps the weights; fetch them with 'git lfs pull'",
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
}
"""First bytes, in lower case → what a file is that calls itself safetensors."""

# What transformers needs beside its configuration, one of these, to make a tokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


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
    described = read_json(index)
    made_by = described.get("_class_name")
    if made_by != "FluxPipeline":
        raise ModelError(f"{folder} holds a {made_by}, but dit360 runs FluxPipeline models; give a FLUX folder.")
    for part in PARTS:
        made = described.get(part, LIBRARIES)
        if not (isinstance(made, (list, tuple)) and made and made[0] in (None, *LIBRARIES)):
            raise ModelError(
                f"{index} wants code for its {part} that is neither of diffusers nor of transformers ({made!r:.60}), "
                "which dit360 does not run; give another model."
            )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; download the whole model, not a part of it.")
    for part in (*WEIGHTS, "scheduler"):
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        if not (folder / part / name).is_file():
            raise ModelError(f"{folder / part} has no {name}; download the whole model again.")
        read_config(folder / part / name)
    for part in TOKENIZERS:
        if not any((folder / part / name).is_file() for name in VOCABULARIES):
            raise ModelError(
                f"{folder / part} has no vocabulary ({', '.join(VOCABULARIES)}); download the whole model."
            )
    for part in WEIGHTS:
        for file in weight_files(folder / part):
            check_safetensors(file)


def with_settings(model: Model, folder: Path) -> Model:
    """A model given by its folder alone, with the size, prompt prefix and so on that the folder remembers, if any."""
    file = folder / SETTINGS
    if model.name != "given" or not file.is_file():
        return model
    told = read_json(file)
    known = {field.name for field in attrs.fields(Model)} & set(KEPT)
    try:
        return attrs.evolve(model, **{name: told["model"][name] for name in known if name in told["model"]})
    except (KeyError, TypeError, ValueError) as error:
        why = error.args[0] if error.args else type(error).__name__  # of attrs, whose text shows the whole field
        raise ModelError(f"{file} is damaged ({why}); delete it to use defaults.") from error


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


def refuse_pickle(path: Path) -> None:
    """Raises ModelError for formats that can run code when they are opened."""
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened; convert it to safetensors or get a "
            "safetensors release."
        )


def weight_files(part: Path) -> Iterator[Path]:
    """The safetensors files that hold the weights of one part, as its index or its folder says."""
    listed: set[Path] = set()
    for index in sorted(part.glob("*.safetensors.index.json")):
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ModelError(f"{index} has no weight_map from tensors to files; download the model again.")
        # Shards lie beside their index, and no model of the Hub is to reach other files.
        if elsewhere := [shard for shard in shards.values() if not _is_file_name(shard)]:
            raise ModelError(f"{index} names {elsewhere[0]!r:.60}, which is not in its folder; get another model.")
        listed |= {part / shard for shard in shards.values()}
    # A folder may hold variants (model.fp16.safetensors) beside the plain weights; all of them are checked.
    files = sorted(listed | set(part.glob("*.safetensors")))
    if not files:
        pickled = sorted(p for p in part.iterdir() if p.suffix.lower() in PICKLED)
        if pickled:
            refuse_pickle(pickled[0])
        raise ModelError(f"{part} has no weights (*.safetensors); download the whole model.")
    for file in files:
        if not file.is_file():
            why = "is a folder" if file.is_dir() else "is named in the index but is not there"
            raise ModelError(f"{file} {why}; download the model again.")
        yield file


def _is_file_name(name: str) -> bool:
    return name.isprintable() and not set(name) & set("/\\:") and name.strip(". ") != ""


def check_safetensors(file: Path) -> list[str]:
    """The tensor names of a safetensors file, read from its header. Raises ModelError if it is damaged or cut off."""
    from safetensors import SafetensorError, safe_open

    refuse_pickle(file)
    try:
        # Opening compares the header with the length of the file; no tensor is read.
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        if what := _something_else(file):
            raise ModelError(f"{file} {what}.") from error
        raise Damaged(f"{file} is damaged or cut off ({error}); download it again.") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}); check its permissions.") from error


def _something_else(file: Path) -> str | None:
    """What a file is that cannot be read as safetensors; None: that, damaged."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        start = opened.read(32)
        if start[4:8] != bytes(4):  # of a safetensors file it would be the length of the header, which is not so long
            return next((what for mark, what in _NO_SAFETENSORS.items() if start.lower().startswith(mark)), None)
    return None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError if it is not one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON ({error}); download the model again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no JSON object; download the model again.")
    return found


def read_config(file: Path) -> dict[str, Any]:
    """The configuration of a part. Raises ModelError if it is none, or asks for more layers than any memory holds."""
    config = read_json(file)
    for name in COUNTS:
        number = config.get(name)
        if isinstance(number, int | float) and not 0 <= number <= MOST_LAYERS:
            raise ModelError(f"{file} says that {name} is {number!r:.60}, which cannot be; download the model again.")
    return config


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
