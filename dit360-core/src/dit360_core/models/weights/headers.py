"""Which files hold a part's weights, and whether their numbers mean something as they stand: by names and headers."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import attrs
from safetensors import SafetensorError, safe_open

from dit360_core.errors import ModelError, named, one_line
from dit360_core.models.weights.schema import read_json

PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
STEMS = ("diffusion_pytorch_model", "model")
"""Of files of weights, as diffusers and transformers write them."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Numbers that mean something by themselves, and their bytes."""


class Damaged(ModelError):
    """A file of weights that is not as it was written."""


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


def refuse_pickle(path: Path) -> None:
    """Raises ModelError for formats that can run code when they are opened."""
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened; convert it to safetensors or get a "
            "safetensors release."
        )


def check_safetensors(file: Path) -> list[str]:
    """The tensor names of a safetensors file, read from its header. Raises ModelError if it is damaged or cut off."""
    refuse_pickle(file)
    try:
        # Opening compares the header with the length of the file; no tensor is read.
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        if what := _something_else(file):
            raise ModelError(f"{file} {what}.") from error
        raise Damaged(f"{file} is damaged or cut off ({one_line(error)}); download it again.") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}); check its permissions.") from error


def _something_else(file: Path) -> str | None:
    """What a file is that cannot be read as safetensors; None: that, damaged."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        start = opened.read(32)
        if start[4:8] != bytes(4):  # of a safetensors file it would be the length of the header, which is not so long
            return next((what for mark, what in _NO_SAFETENSORS.items() if start.lower().startswith(mark)), None)
    return None


@attrs.frozen(kw_only=True)
class Entry:
    """What a safetensors file says of a tensor.

    begin, end: bytes from the beginning of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(file: Path) -> dict[str, Entry]:
    """name → what is told of the tensor, no tensor being read. Raises ModelError if the file is damaged or cut off."""
    check_safetensors(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        told = json.loads(opened.read(length))
    return {
        name: Entry(
            dtype=about["dtype"],
            shape=tuple(about["shape"]),
            begin=8 + length + about["data_offsets"][0],
            end=8 + length + about["data_offsets"][1],
        )
        for name, about in told.items()
        if name != "__metadata__"
    }


def text_metadata(file: Path) -> dict[str, str]:
    """What else the header of a safetensors file says, in texts."""
    check_safetensors(file)
    with safe_open(file, framework="numpy") as opened:
        return dict(opened.metadata() or {})


# ---------------------------------------------------------------------------------------------------------- the files


def weight_files(part: Path) -> Iterator[Path]:
    """The safetensors files that hold the weights of one part, as its index or its folder says."""
    listed: set[Path] = set()
    for index in sorted(_indexes(part)):
        # Shards lie beside their index, and no model of the Hub is to reach other files.
        if elsewhere := [shard for shard in _shards(index).values() if not _is_file_name(shard)]:
            raise ModelError(f"{index} names {elsewhere[0]!r:.60}, which is not in its folder; get another model.")
        listed |= {part / shard for shard in _shards(index).values()}
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


def _indexes(part: Path) -> Iterator[Path]:
    """model.safetensors.index.json, and of a variant model.safetensors.index.fp16.json."""
    yield from part.glob("*.safetensors.index*.json")


def _shards(index: Path) -> dict[str, str]:
    """Tensor → file."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ModelError(f"{index} has no weight_map from tensors to files; download the model again.")
    return shards


def _is_file_name(name: str) -> bool:
    return name.isprintable() and not set(name) & set("/\\:") and name.strip(". ") != ""


def tensor_files(part: Path) -> dict[str, Path]:
    """Tensor → its file, of the plain weights if there are any, else of the only variant.

    Raises ModelError if there are neither, or several variants of which one must be chosen.
    """
    variant = variant_of(part)
    infix = f".{variant}" if variant else ""
    for stem in STEMS:
        file = part / f"{stem}{infix}.safetensors"
        # Of a variant some wrote the one name and some the other.
        indexes = [part / f"{stem}.safetensors.index{infix}.json", part / f"{stem}{infix}.safetensors.index.json"]
        # As the libraries prefer them: diffusers the index, transformers the file.
        for one in (*indexes, file) if stem == STEMS[0] else (file, *indexes):
            if one.is_file() and one.suffix == ".json":
                return {name: part / shard for name, shard in _shards(one).items()}
            if one.is_file():
                return dict.fromkeys(check_safetensors(one), one)
    raise ModelError(f"{part} has no {STEMS[0]}.safetensors and no {STEMS[1]}.safetensors; download the whole model.")


def variant_of(part: Path) -> str:
    """The variant that the weights of a part are there in alone, such as fp16; empty: there are plain ones, or none.

    Raises ModelError if there are several.
    """
    found: set[str] = set()
    for file in part.iterdir():
        for stem in STEMS:
            named = rf"{stem}(?:\.(?P<before>[\w-]+?))?\.safetensors(?:\.index(?:\.(?P<behind>[\w-]+))?\.json)?"
            if match := re.fullmatch(named, file.name):
                found.add(match["before"] or match["behind"] or "")
    # Shards of a variant: model.fp16-00001-of-00002.safetensors, which an index names.
    found = {name for name in found if not re.fullmatch(r".*-\d{5}-of-\d{5}", name)}
    if "" in found or not found:
        return ""
    if len(found) > 1:
        raise ModelError(
            f"{part} holds its weights as {' and '.join(sorted(found))}, and none without a name of a variant; leave "
            "one of them there."
        )
    return found.pop()


# -------------------------------------------------------------------------------------------------------- the numbers

_SCALED = "scaled fp8, whose numbers mean nothing without their scales"
_MARKS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)scaled_fp8$", _SCALED),
    (r"\.(scale_weight|scale_input|weight_scale|input_scale|weight_scale_2|weight_scale_inv)$", _SCALED),
    (r"\.comfy_quant$", "quantized by ComfyUI"),
    (r"\.(absmax|quant_map|nested_absmax|quant_state\..*|SCB)$", "quantized by bitsandbytes"),
    (r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)$", "quantized by bitsandbytes"),
    (r"\.(qweight|qzeros|g_idx)$", "quantized in the manner of GPTQ or AWQ"),
    (r"\.(wscales|smooth_factor|smooth_factor_orig|wzeros)$", "quantized by Nunchaku"),
    (r"\.(weight_packed|_data|_scale|weight\._data|weight\._scale)$", "quantized"),
)


def check_numbers(where: Path, entries: Mapping[str, Entry]) -> None:
    """Raises ModelError for tensors that are quantized, or of a type that no weights have."""
    for name in entries:
        what = next((what for form, what in _MARKS if re.search(form, name)), None)
        if what is not None:
            raise ModelError(
                f"{where} holds weights that are {what} ({name}), which dit360 does not read; give a file in fp16, "
                f"bf16 or plain fp8, and {named('quantization_mode')} to quantize it."
            )
    odd = [name for name, entry in entries.items() if entry.dtype not in FLOATS and not _is_position(name)]
    if odd:
        raise ModelError(
            f"{where} holds {len(odd)} tensors of {entries[odd[0]].dtype} ({odd[0]}), which mean nothing without their "
            "scales and which dit360 does not read; give a file in fp16, bf16 or plain fp8, and "
            f"{named('quantization_mode')} to quantize it."
        )


def _is_position(name: str) -> bool:
    """What is no weight, though it may lie beside them: positions that are counted anew, a vocabulary, how often a norm
    was trained."""
    return name.endswith(("position_ids", "num_batches_tracked")) or name == "spiece_model"


# ---------------------------------------------------------------------------------------------------------- the names


def harmless(patterns: Iterable[str], name: str) -> bool:
    """Whether a part may leave a tensor of its files alone.

    patterns: of the part.
    """
    return any(re.fullmatch(form, name) for form in patterns)


def sources(
    prefixes: Iterable[str],
    wanted: Iterable[str],
    found: Collection[str],
    tied: Mapping[str, str],
    others: Callable[[str], Iterable[str]] = lambda name: (),
) -> dict[str, str]:
    """Parameter → tensor of the files, where that has another name.

    prefixes: what names may have before them, or leave out.
    wanted: names of parameters.
    found: names of tensors in the files.
    tied: parameter → the one that it is one with.
    others: further names that a parameter may have.
    """
    pairs: dict[str, list[str]] = {}
    for one, other in [*tied.items(), *((other, one) for one, other in tied.items())]:
        pairs.setdefault(one, []).append(other)
    renamed = {}
    for name in wanted:
        known = list(pairs.get(name, ()))
        # transformers has both: all older files have the prefix.
        known += [name.removeprefix(each) if name.startswith(each) else each + name for each in prefixes]
        known += others(name)
        there = [other for other in known if other in found]
        if name not in found and there:
            renamed[name] = there[0]
    return renamed


def check_names(
    patterns: Iterable[str],
    where: Path,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    renamed: Mapping[str, str],
    inside: Callable[[str], bool] = lambda name: False,
) -> None:
    """Raises ModelError unless files hold what a part needs, in its shapes, and nothing that it would not use.

    patterns: of tensors that the part may leave alone.
    where: the files' folder.
    wanted: parameter → shape.
    found: tensor → shape.
    renamed: as :func:`sources` gives it.
    inside: whether a tensor lies where the part is, so that it cannot be left alone.
    """
    missing = [name for name in wanted if renamed.get(name, name) not in found]
    if missing:
        raise ModelError(
            f"{where} lacks {len(missing)} of its weights, {missing[0]!r} among them, or holds another model's; "
            "download the whole model."
        )
    for name, shape in wanted.items():
        if found[renamed.get(name, name)] != shape:
            raise ModelError(
                f"{where} lacks the weights {name!r}, or holds another model's (they are "
                f"{list(found[renamed.get(name, name)])}, and must be {list(shape)}); download the whole model."
            )
    used = {renamed.get(name, name) for name in wanted}
    strange = [name for name in found if name not in used and (inside(name) or not harmless(patterns, name))]
    if strange:
        raise ModelError(
            f"{where} holds {len(strange)} tensors that its configuration has no place for, such as {strange[0]!r}, so "
            "it is of another kind; download the whole model, or give another."
        )
