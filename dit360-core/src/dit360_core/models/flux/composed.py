"""A model with another autoencoder or T5 text encoder than its own, from the files that somebody has already.

Everything that reads a model reads a folder of it. So one is made for the time being: links to what stays, and in the
place of a part what was given. Its weights are neither read nor copied, with one exception: an autoencoder whose
tensors have the names of Black Forest Labs' own files, which is written once under diffusers' names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError, remedy
from dit360_core.models.flux.channels import latents
from dit360_core.models.flux.folder import FOLDERS, check_weights, read_config
from dit360_core.models.flux.parts import PARTS, REPLACEABLE
from dit360_core.models.flux.schemas import value_of
from dit360_core.models.settings import SETTINGS
from dit360_core.models.weights.files import STORED, ModelFiles
from dit360_core.models.weights.headers import FLOATS, PICKLED, Entry, check_numbers, harmless, header, refuse_pickle
from dit360_core.models.weights.hub import SUBFOLDERS, explain_the_cache, fetch
from dit360_core.models.weights.schema import name_of, read_json
from dit360_core.options import LoadOptions
from dit360_core.system.naming import existing, looks_like_hub_id

Empty = Callable[[str, Path], Any]
"""Makes a part, by its name, of the configuration in its folder: on the meta device."""

VAE, T5 = "vae", "text_encoder_2"

_WHAT = {VAE: "autoencoder", T5: "T5 text encoder"}
_FILE = {VAE: "diffusion_pytorch_model.safetensors", T5: "model.safetensors"}
_SAFE = (".safetensors", ".sft")
_PREFIXES = ("", "first_stage_model.", "vae.")
"""Of an autoencoder's tensors, in a file of its own or in one of a whole model."""
_TIED = ("shared.weight", "encoder.embed_tokens.weight")
"""T5's embedding under either of its names."""
_SMALL = 64 * 2**20
"""Bytes. A file up to this is copied where no link can be made."""
_HARMLESS = {part.name: part.harmless for part in PARTS}
_AT_ONCE = 16 * 2**20


@attrs.frozen(kw_only=True)
class Given:
    """A part that was given.

    option, name: how.
    path: its file, or the folder of the part; None: on the Hub.
    """

    option: str
    name: str
    path: Path | None

    @property
    def part(self) -> str:
        return REPLACEABLE[self.option]

    @property
    def what(self) -> str:
        return _WHAT[self.part]


# -------------------------------------------------------------------------------------- what was given, without torch


def find(asked: LoadOptions) -> tuple[Given, ...]:
    """The parts that options name, as far as they are on this machine looked at: names, types and header of the files.

    Raises ModelError for what is not there, can run code, is damaged, or cannot be such a part of any FLUX.
    """
    return tuple(_find(option, name) for option in REPLACEABLE if (name := getattr(asked, option)))


def _find(option: str, name: str) -> Given:
    path = existing(name)
    given = Given(option=option, name=name, path=path)
    if path is None:
        # "vae/ae.safetensors" has the form of a Hub id and is none.
        if looks_like_hub_id(name) and not name.lower().endswith((*_SAFE, *PICKLED)):
            return given
        raise ModelError(
            f"There is no {given.what} {name}; give a diffusers folder, a safetensors file, or a Hub id (owner/name)."
        )
    if path.is_file():
        refuse_pickle(path)
        if path.suffix.lower() not in _SAFE:
            raise ModelError(f"{path} is no safetensors file; give the {given.what}'s .safetensors file or its folder.")
        _names_of(given.part, path, header(path))
        return given
    return attrs.evolve(given, path=_folder_of(given, path, weights=True))


def _folder_of(given: Given, folder: Path, *, weights: bool) -> Path:
    """The folder of the part in what may be a whole model's.

    weights: they must be there too.
    """
    if (folder / given.part).is_dir():
        folder = folder / given.part
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no {given.what} as diffusers writes it: it has no config.json; give a folder that "
            "save_pretrained wrote, or a single safetensors file."
        )
    described = read_json(folder / "config.json")
    key, wanted = ("_class_name", "AutoencoderKL") if given.part == VAE else ("model_type", "t5")
    if described.get(key) != wanted:
        other = name_of(described.get(key) or "something else")
        raise ModelError(f"{folder} holds {other}, and FLUX's {given.what} is {wanted}; give another.")
    read_config(given.part, folder)
    if weights:
        check_weights(given.part, folder)
    return folder


def _names_of(part: str, file: Path, found: Mapping[str, Entry]) -> str | None:
    """The prefix of Black Forest Labs' names in a file, or None if it has those of the libraries.

    Raises ModelError for tensors of another kind of model, or in numbers that need scales.
    """
    prefix = None
    if part == VAE:
        if "decoder.mid_block.resnets.0.conv1.weight" not in found:
            prefix = next((p for p in _PREFIXES if f"{p}decoder.mid.block_1.conv1.weight" in found), None)
            if prefix is None:
                raise _other(part, file, found)
        mine = {
            name: entry for name, entry in found.items() if name.startswith(("encoder.", "decoder."), len(prefix or ""))
        }
    else:
        if "encoder.block.0.layer.0.SelfAttention.q.weight" not in found or not any(name in found for name in _TIED):
            raise _other(part, file, found)
        mine = {name: entry for name, entry in found.items() if not name.startswith(("decoder.", "lm_head."))}
    check_numbers(file, mine)
    return prefix


def _other(part: str, file: Path, found: Mapping[str, Entry]) -> ModelError:
    usual = {VAE: "ae.safetensors", T5: "t5xxl_fp16.safetensors"}[part]
    first = next(iter(sorted(found)), None)
    holds = "no tensors" if first is None else f"tensors of another model, such as {first}"
    return ModelError(f"{file} holds no {_WHAT[part]} of FLUX but {holds}; give one such as {usual}.")


def check_fits(given: Sequence[Given], folder: Path) -> None:
    """Raises ModelError for a part that makes or takes other numbers than the transformer in ``folder``."""
    for one in given:
        if one.path is not None:
            _check_fits(one, one.path, folder)


def _check_fits(one: Given, path: Path, folder: Path) -> None:
    if one.part == VAE:
        made, wanted = "latents", latents(read_config("transformer", folder / "transformer"))
        channels = _latent_channels(path)
    else:
        made, wanted = "text embeddings", _number("transformer", folder / "transformer", "joint_attention_dim")
        channels = _embedding_channels(path)
    if channels != wanted:
        raise ModelError(
            f"{path} makes {made} of {channels} channels, and this model's transformer takes {wanted}; give the "
            f"{one.what} of such a model."
        )
    if path.is_file():
        return
    if one.part == VAE:
        factor = 2 ** (len(value_of(VAE, read_config(VAE, path), "block_out_channels")) - 1)
        if factor != 8:
            raise ModelError(
                f"{path} makes latents {factor} times smaller than the picture, and FLUX's are 8 times smaller; give "
                "the autoencoder of such a model."
            )
        return
    known, needed = (_number(T5, at, "vocab_size") for at in (path, folder / T5))
    if known < needed:
        raise ModelError(
            f"{path} knows {known} tokens, and this model's tokenizer makes {needed}; give the T5 of such a model."
        )


def _latent_channels(path: Path) -> int | None:
    if path.is_dir():
        return _number(VAE, path, "latent_channels")
    entries = header(path)
    first = entries.get(f"{_names_of(VAE, path, entries) or ''}decoder.conv_in.weight")
    return first.shape[1] if first is not None and len(first.shape) > 1 else None


def _embedding_channels(path: Path) -> int | None:
    if path.is_dir():
        return _number(T5, path, "d_model")
    entries = header(path)
    shape = next((entries[name].shape for name in _TIED if name in entries), ())
    return shape[-1] if shape else None


def _number(part: str, folder: Path, key: str) -> int:
    """A number of a configuration."""
    return int(value_of(part, read_config(part, folder), key))


# ----------------------------------------------------------------------------------------------------- into one folder


def compose(folder: Path, given: Sequence[Given], empty: Empty, *, weights: bool = True) -> ModelFiles:
    """The model in ``folder`` with the parts that were given in the place of its own; itself if there are none.

    empty: makes a part of its configuration.
    weights: False if only configurations will be looked at: nothing is written, and of the Hub nothing else fetched.

    Raises ModelError: a part is on no Hub, does not belong to this model, or cannot be linked here.
    """
    if not given:
        return ModelFiles(folder)
    given = [_fetched(one, weights=weights) for one in given]
    check_fits(given, folder)
    notes = list(_notes(given, folder))
    try:
        place = Path(tempfile.mkdtemp(prefix="dit360-model-"))
    except OSError as error:
        raise ModelError(
            f"No temporary folder can be made ({error.strerror or error}); name a place with TMPDIR."
        ) from error
    made = ModelFiles(place, temporary=True, notes=notes)
    try:
        _fill(made.folder, folder, {one.part: one for one in given}, empty, weights=weights)
    except OSError as error:
        made.remove()
        raise ModelError(
            f"The folder {made.folder} cannot be written ({error.strerror or error}); see that there is space, or name "
            "another place with TMPDIR."
        ) from error
    except BaseException:
        made.remove()
        raise
    return made


def _fetched(one: Given, *, weights: bool) -> Given:
    if one.path is not None:
        return one
    # A model's repository holds single files of all its weights beside the folders of its parts; these are not wanted.
    found = fetch(one.name, ["config.json", f"{one.part}/*" if weights else f"{one.part}/config.json"])
    if weights and not (found / one.part).is_dir():
        found = fetch(one.name, ["config.json", "*.safetensors", "*.safetensors.index.json"], ignore=SUBFOLDERS)
    with explain_the_cache(one.name):
        return attrs.evolve(one, path=_folder_of(one, found, weights=weights))


def _notes(given: Sequence[Given], folder: Path) -> Iterator[str]:
    """An autoencoder of another model may have as many channels, which mean something else."""
    for one in given:
        if one.part != VAE or one.path is None or not one.path.is_dir():
            continue
        theirs, own = (read_config(VAE, at) for at in (one.path, folder / VAE))
        other = next((key for key in ("scaling_factor", "shift_factor") if theirs.get(key) != own.get(key)), None)
        if other is not None:
            yield (
                f"{one.path} has the {other} {theirs.get(other)}, and the model's own autoencoder {own.get(other)}: "
                "if it is another model's, its latents mean something else"
            )


def _fill(made: Path, folder: Path, given: Mapping[str, Given], empty: Empty, *, weights: bool) -> None:
    for name in ("model_index.json", SETTINGS):
        if (folder / name).is_file():
            _link(folder / name, made / name)
    for part in FOLDERS:
        (made / part).mkdir()
        one = given.get(part)
        source = folder / part if one is None or one.path is None else one.path
        if source.is_file():
            # The file says nothing of the layers; that the model's own weights may be quantized is not its business.
            config = read_json(folder / part / "config.json")
            config.pop("quantization_config", None)
            (made / part / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
            _bring(part, source, made / part, empty, weights=weights)
            continue
        for file in sorted(source.iterdir() if source.is_dir() else ()):
            if file.is_file():
                _link(file, made / part / file.name)
        if one is not None and weights and not _quantized(source):
            from dit360_core.models.weights.tensors import Tensors

            _compare(part, source, made / part, empty, Tensors(source).shapes())


def _quantized(folder: Path) -> bool:
    return (folder / STORED).is_file() or "quantization_config" in read_json(folder / "config.json")


def _bring(part: str, file: Path, folder: Path, empty: Empty, *, weights: bool) -> None:
    """The weights of a single file into the folder of their part, which has its configuration already."""
    entries = header(file)
    prefix = _names_of(part, file, entries)
    sources = {name: name for name in entries}
    if prefix is not None:
        levels = len(value_of(part, read_config(part, folder), "block_out_channels"))
        sources = {name: prefix + original_name(name, levels) for name in _shapes(part, folder, empty)}
    found = {name: entries[source] for name, source in sources.items() if source in entries}
    wanted = _compare(part, file, folder, empty, {name: entry.shape for name, entry in found.items()})
    # What else a file of a whole model holds would be taken for another kind of part.
    if prefix is None and all(name in wanted or harmless(_HARMLESS[part], name) for name in entries):
        _link(file, folder / _FILE[part])
    elif weights:
        _write(file, folder / _FILE[part], {name: (found[name], shape) for name, shape in wanted.items()})


def _shapes(part: str, folder: Path, empty: Empty) -> dict[str, tuple[int, ...]]:
    """name → shape of a part's tensors, as its configuration says."""
    return {name: tuple(tensor.shape) for name, tensor in empty(part, folder).named_parameters()}


def _compare(
    part: str, path: Path, folder: Path, empty: Empty, found: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The shapes that a part must have. Raises ModelError if ``found`` has others, or not all of them."""
    wanted = _shapes(part, folder, empty)
    for name, shape in wanted.items():
        names = _TIED if name in _TIED else (name,)
        there = next((found[n] for n in names if n in found), None)
        # Black Forest Labs' autoencoder has 1×1 convolutions where diffusers has linear layers: the same numbers.
        if there is None or there[: len(shape)] != shape or any(size != 1 for size in there[len(shape) :]):
            told = "lacks" if there is None else f"has the shape {list(there)} instead of {list(shape)} for"
            raise ModelError(
                f"{path} {told} {name}, so it is no {_WHAT[part]} for this model; give another, or "
                f"{remedy('leave_out')}."
            )
    return wanted


def original_name(name: str, levels: int) -> str:
    """What a tensor of diffusers' AutoencoderKL is called in Black Forest Labs' files.

    levels: of resolution.
    """
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    # They count the decoder's levels from the full resolution.
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", name)


_RENAMED: tuple[tuple[str, Any], ...] = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.resnets\.(\d+)\.", lambda found: f".mid.block_{int(found[1]) + 1}."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".\1.\2.block.\3."),
    (r"\.(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.", r".\1.\2.\3sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)


def _write(file: Path, target: Path, entries: Mapping[str, tuple[Entry, tuple[int, ...]]]) -> None:
    """Tensors of one safetensors file in another, under other names: bytes are copied, 335 MB for FLUX's in fp32."""
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    # The widest numbers first, so that all lie where their width divides the address.
    ordered = sorted(entries.items(), key=lambda named: -FLOATS[named[1][0].dtype])
    for name, (entry, shape) in ordered:
        size = entry.end - entry.begin
        told[name] = {"dtype": entry.dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    with file.open("rb") as source, target.open("wb") as made:
        made.write(len(text).to_bytes(8, "little") + text)
        for _, (entry, _) in ordered:
            source.seek(entry.begin)
            for left in range(entry.end - entry.begin, 0, -_AT_ONCE):
                made.write(source.read(min(left, _AT_ONCE)))


def _link(file: Path, target: Path) -> None:
    """The file under another name, without a copy where that can be had."""
    file = file.resolve()  # a link may be relative to its folder
    for make in (os.symlink, os.link):  # Windows lets not everybody make the first; the second ends at a drive
        try:
            make(file, target)
        except (OSError, NotImplementedError):
            continue
        return
    if file.stat().st_size > _SMALL:
        raise ModelError(
            f"{file} cannot be linked into {target.parent}: switch on Windows' developer mode, or name a folder on the "
            "same drive with TMPDIR."
        )
    shutil.copyfile(file, target)
