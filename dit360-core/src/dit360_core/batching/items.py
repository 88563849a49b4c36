"""The pictures of a list: what each of them is, and what tells it from every other."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from dit360_core.batching.lists import lines_of
from dit360_core.batching.telling import in_line
from dit360_core.errors import InputError, named, remedy
from dit360_core.options import (
    OF_A_LINE,
    DecodeOptions,
    EditOptions,
    LargerOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    build,
    build_own,
    changed_options,
    check_of_a_picture,
    options_of,
    own_options,
)
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.panorama.formats import FORMATS
from dit360_core.panorama.photos import parsed
from dit360_core.panorama.picture import prompt_in, saved_settings
from dit360_core.pipeline.editing.opening import Files
from dit360_core.planning.contents import content_at
from dit360_core.planning.larger import STATE, check_width, steps_of
from dit360_core.planning.loras import SEPARATOR, is_there, names_in, split
from dit360_core.system.naming import LONGEST_COMPONENT, file_within, slug_of

OWN = ("name", "image", "mask", "photo", "lora", "upscale")
"""What a line may say beside the options of a picture: the file to write, the panorama to begin with, its mask, photos
that it is made around, LoRAs for it alone, and the width to which it is made larger."""

_SIZE = frozenset({"width", "height"})

TILES = frozenset(
    {
        "tiling_backend", "tiling_mode", "tiling_level", "vae_tile_size", "vae_tile_overlap", "vae_auto_tile_pixels",
        "tile_size_override", "tile_overlap_override", "max_tile_pixels_override",
    }
)  # fmt: skip
"""Options that say where the autoencoder's work is cut, which changes the picture unless the tiling is exact."""
EXACT = ("auto", "exact", "whole")
"""Tilings that leave the picture as it is, wherever they cut."""

SAME_PICTURE = TILES | {
    "device", "offload", "evict", "compile_blocks", "attention_backend", "attention_slice_size", "strict",
    "log_memory_stats", "vram", "ram", "preset", "precision", "quantization_mode",
}  # fmt: skip
"""Options that are not in a picture's fingerprint: those that say how it is computed and not what it shows, so that who
ran out of memory may go on with the same pictures; and those that ``auto`` may decide, of which what was used is
compared (:func:`dit360_core.batching.painting.identity`). Tiles are in it after all where they are not exact."""

OTHER_ENDINGS = frozenset({
    ".apng", ".bmp", ".csv", ".dng", ".gif", ".hdr", ".heic", ".heif", ".htm", ".html", ".ico", ".jfif", ".jp2",
    ".jpe", ".json", ".jsonl", ".jxl", ".mp4", ".pdf", ".ppm", ".psd", ".raw", ".svg", ".tga", ".txt", ".webm", ".zip",
})  # fmt: skip
"""Endings of a name that ask for another format than there is, and are refused; any other is a part of the name."""

SEED_DIGITS = 13
"""Hexadecimal digits of a seed that nobody gave: as many as every reader of JSON keeps (2⁵³)."""
NAME_DIGITS = 12
"""Of the fingerprint in a file's name."""


@attrs.frozen(kw_only=True)
class Item:
    """One picture of a list.

    line: where it stands, from 1.
    name: of its file, relative to the batch's folder, with "/" between folders.
    key: a fingerprint of everything that decides what it shows; stands in the picture's metadata.
    files: what it is made from beside its prompt.
    digests: of those files, as they were when the list was read.
    named: by the list.
    loras: beside those that the model is loaded with, each (file, folder or Hub id, strength).
    larger: whether ``sampling`` is that of a larger picture, made of the image, or of ``first`` where there is none.
    first: the picture that is painted before it is made larger.
    enlarging: how it is made larger.
    said: what its own line says, by columns.
    """

    line: int
    name: str
    sampling: SampleOptions
    decoding: DecodeOptions
    key: str
    larger: bool = False
    first: SampleOptions | None = None
    enlarging: LargerOptions = attrs.field(factory=LargerOptions)
    files: Files = attrs.field(factory=Files)
    digests: tuple[str, ...] = ()
    named: bool = False
    loras: tuple[tuple[str, float], ...] = ()
    said: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Batchwide:
    """What holds for all pictures of a list.

    folder: where they go.
    suffix: of those whose line names no file, with its dot.
    options: of those whose line does not say otherwise, by names of SampleOptions and DecodeOptions.
    contents: option of loading → fingerprint of the local file or folder that it names.
    wrong: what is wrong with ``options`` themselves, for which no line is blamed.
    """

    folder: Path
    suffix: str
    loading: LoadOptions
    options: Mapping[str, Any]
    contents: Mapping[str, str] = attrs.field(factory=dict)
    wrong: str = ""


def read_items(path: Path, common: Batchwide) -> tuple[Item, ...]:
    """The pictures of a list, checked one by one.

    Raises InputError with the line's number: unknown option, value out of range, no prompt, a name that leads out of
    the folder or that two lines have.
    """
    items: list[Item] = []
    taken: dict[str, int] = {}
    make = _Maker(path, common)
    for line, told in lines_of(path):
        with in_line(path, line, common.wrong, told):
            item = make(line, told)
            # As Windows and macOS compare names.
            if (before := taken.setdefault(item.name.casefold(), line)) != line:
                if not item.named:
                    raise InputError(
                        f"it is the picture of line {before} again; leave it out, or give another {named('seed')}."
                    )
                raise InputError(f"the file {item.name} is that of line {before} already; give it another name.")
        items.append(item)
    if not items:
        raise InputError(f"{path} lists no pictures; write one prompt in each line.")
    for item in items:
        for parent in PurePosixPath(item.name).parents:
            if (other := taken.get(str(parent).casefold())) is not None:
                with in_line(path, item.line):
                    raise InputError(f"{parent} is the file of line {other} and can be no folder; give another name.")
    return tuple(items)


class _Maker:
    """Makes the items of one list, which have to be told from each other."""

    def __init__(self, path: Path, common: Batchwide) -> None:
        self._path, self._common = path, common
        self._often: Counter[str] = Counter()
        self._digest = functools.cache(digest)
        self._content = functools.cache(_content)
        loading = _chosen(common.loading)
        self._model = {n: v for n, v in loading.items() if n not in SAME_PICTURE} | dict(common.contents)
        self._tiles = {n: v for n, v in loading.items() if n in TILES}

    def __call__(self, line: int, told: Mapping[str, Any]) -> Item:
        own = {name: told[name] for name in OWN if name in told}
        loras = self._loras(own.pop("lora")) if "lora" in own else ()
        photos = _photos(own.pop("photo")) if "photo" in own else ()
        to = _width(own.pop("upscale", None))
        for name, value in own.items():
            if not isinstance(value, str) or not value:
                raise InputError(f"{name} must be text, not {value!r}.")
        said = {name: value for name, value in told.items() if name not in OWN}
        useless = _useless(own, photos, to)
        given = {**{n: v for n, v in self._common.options.items() if n not in useless}, **said}
        of_an_image = to is not None and "image" in own and not photos
        check_of_a_picture(given, classes=OF_A_LINE, own=OWN, instead="give it to the command")
        if "prompt" not in given and not of_an_image:
            raise InputError("it has no prompt; say what the panorama shows.")
        decoding = build_own(DecodeOptions, given)
        enlarging = _enlarging(given, to)
        first = None
        if to is None:
            sampling = build_own(SampleOptions, given)
        else:
            first, sampling = self._larger(own, given, to, of_an_image)
        named = ""
        if "name" in own:
            named = self._file(own["name"])
        files = self._files(own, photos, given, frozenset(said))
        digests = tuple(self._digest(path) for path in files.paths)

        asked = {**_chosen(sampling), **_chosen(decoding)}
        shown: dict[str, Any] = {**self._model, **{n: v for n, v in asked.items() if n not in SAME_PICTURE}}
        if to is not None:
            shown["upscale"] = {**({} if first is None else _painted(first)), **changed_options(enlarging)}
        if decoding.tiling_backend not in EXACT:
            shown |= self._tiles | {n: v for n, v in asked.items() if n in TILES}
        if digests:
            shown |= _kept(files, digests)
        if loras:
            shown["loras"] = [[self._content(name), strength] for name, strength in loras]
        if sampling.seed is None:
            sampling = attrs.evolve(sampling, seed=self._seed(shown, named))
            shown["seed"] = sampling.seed
        if first is not None:
            first = attrs.evolve(first, seed=sampling.seed)
        key = _fingerprint(shown)
        return Item(
            line=line,
            name=named or f"{slug_of(sampling.prompt)}-{key[:NAME_DIGITS]}{self._common.suffix}",
            sampling=sampling,
            decoding=decoding,
            key=key,
            larger=to is not None,
            first=first,
            enlarging=enlarging,
            files=files,
            digests=digests,
            named=bool(named),
            loras=loras,
            said=frozenset(told),
        )

    def _larger(
        self, own: Mapping[str, str], given: Mapping[str, Any], to: int, of_an_image: bool
    ) -> tuple[SampleOptions | None, SampleOptions]:
        """The options of the picture that is painted first, if one is, and of the larger one."""
        if of_an_image:
            for name in _SIZE:
                if given.get(name) is not None:
                    raise InputError(f"{named(name)} has no effect beside {named('upscale')}, which says the width.")
            if "prompt" not in given:
                given = {**given, "prompt": _prompt_of(self._path.parent / own["image"])}
        asked = own_options(SampleOptions, given)
        beside = {} if of_an_image else {"height": None}
        large = build(SampleOptions, {**USUAL_LARGER, **asked, **beside, "width": to})
        if of_an_image:
            return None, large
        # How much of it is made anew, and in which windows, is said of the larger one.
        first = build(SampleOptions, {n: v for n, v in asked.items() if "image" in own or n not in USUAL_LARGER})
        if first.steps is not None:
            large = attrs.evolve(large, steps=steps_of(first.steps, large.denoise))
        return first, large

    def _files(
        self, own: Mapping[str, str], photos: tuple[str, ...], given: Mapping[str, Any], said: frozenset[str]
    ) -> Files:
        """What the picture is made from, whose files are looked for beside the list.

        said: options that its own line says.
        """
        beside = self._path.parent
        return Files(
            image=beside / own["image"] if "image" in own else None,
            mask=beside / own["mask"] if "mask" in own else None,
            photos=photos,
            placing=build_own(PhotoOptions, given),
            options=build_own(EditOptions, given),
            folder=beside,
            for_all=frozenset(options_of(EditOptions)) & frozenset(given) - said,
        )

    def _file(self, name: str) -> str:
        """The name of a picture's file, which ends in the format of all where it says none: ``v1.5`` is no ending."""
        folder, ending = self._common.folder, Path(name).suffix.lower()
        if ending not in FORMATS and ending not in OTHER_ENDINGS and not name.endswith((".", " ", "/", "\\")) and name:
            name += self._common.suffix
        return file_within(folder, name, endings=tuple(FORMATS)).relative_to(folder).as_posix()

    def _loras(self, given: Any) -> tuple[tuple[str, float], ...]:
        """What a line says of LoRAs. Files are looked for beside the list first."""
        found = []
        names = names_in(given)
        if not names:
            raise InputError(f"{named('lora')} names no LoRA; name one, or {remedy('leave_out')}.")
        for text in names:
            beside = f"{self._path.parent / text}"
            name, strength = split(beside)
            if not is_there(name):
                name, strength = split(text)
            found.append((name, self._common.loading.lora_strength if strength is None else strength))
        return tuple(found)

    def _seed(self, shown: Mapping[str, Any], named: str) -> int:
        """Drawn from what is asked, so that the same list is the same pictures on every machine and in every run.

        What tells lines apart that ask the same: their names, or which of them comes first.
        """
        same = _fingerprint(shown)
        self._often[same] += not named
        return int(_fingerprint([same, named or self._often[same]])[:SEED_DIGITS], 16)


def _useless(own: Mapping[str, str], photos: tuple[str, ...], to: int | None) -> frozenset[str]:
    """Options that are given for all pictures and mean nothing for one that is made from these.

    to: width that it is made larger to; None: it is not.
    """
    found: set[str] = set()
    if to is None:
        found |= set(options_of(LargerOptions))
    elif "image" in own:
        found |= _SIZE
    if not photos:
        found |= set(options_of(PhotoOptions))
    if "mask" not in own:
        found.add("mask_means")
    if "image" not in own:
        found.add("region")
    if "image" not in own and not photos:
        found |= set(options_of(EditOptions))
        if to is None:
            found.add("denoise")
    return frozenset(found)


def _enlarging(given: Mapping[str, Any], to: int | None) -> LargerOptions:
    """How a picture is made larger. Raises InputError if its line says so, and it is not.

    to: width that it is made larger to; None: it is not.
    """
    found = build_own(LargerOptions, given)
    for name in changed_options(found):
        if to is None:
            raise InputError(f"{named(name)} has no effect without {named('upscale')}, which says the width.")
    return found


def _photos(given: Any) -> tuple[str, ...]:
    """The photos of a line: a text, with ``|`` between several, or a list of texts."""
    several = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(text, str) and text.strip() for text in several):
        raise InputError(f"{named('photo')} must be text or a list of texts, not {given!r:.80}.")
    found = tuple(part.strip() for text in several for part in text.split(SEPARATOR) if part.strip())
    if not found:
        raise InputError(f"{named('photo')} names no file; name one, or {remedy('leave_out')}.")
    return found


def _kept(files: Files, digests: tuple[str, ...]) -> dict[str, Any]:
    """What tells a picture from others that are made from other files, or keep something else of them."""
    names = [name for name, path in (("image", files.image), ("mask", files.mask)) if path is not None]
    told: dict[str, Any] = dict(zip(names, digests, strict=False))
    if files.photos:
        angles = [{**parsed(text, files.placing), "path": ""} for text in files.photos]
        told["photos"] = [
            [digest, *where.values()] for digest, where in zip(digests[len(names) :], angles, strict=True)
        ]
    return {**told, **_chosen(files.options)}


def _width(given: Any) -> int | None:
    """The width to which a picture is made larger, as a list may write it. Raises InputError for what is none."""
    if given is None:
        return None
    try:
        found = int(str(given).strip())
    except ValueError:
        found = 0
    if isinstance(given, bool) or found < 1:
        raise InputError(f"{named('upscale')} is {given!r:.80}, but must be a width in pixels, such as 4096.")
    check_width(found, "upscale")
    return found


def _painted(first: SampleOptions) -> dict[str, Any]:
    """What of the options of the picture that is painted first decides what it shows."""
    return {name: value for name, value in _chosen(first).items() if name not in SAME_PICTURE}


def _prompt_of(image: Path) -> str:
    """The prompt in a picture's metadata. Raises InputError if there is no such file, or no prompt in it."""
    digest(image)
    found = prompt_in(saved_settings(image))
    if not found:
        raise InputError(f"{image} does not say what it shows; give the line a prompt.")
    return found


def _chosen(options: Any) -> dict[str, Any]:
    """What differs from the defaults, with 3 as 3.0 where a number may be broken: lists write both."""
    known = options_of(type(options))
    return {
        name: float(value) if known[name].kind is float else value for name, value in changed_options(options).items()
    }


def _fingerprint(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def digest(image: Path) -> str:
    """Of a picture to begin with. Raises InputError if there is none."""
    if not os.path.isfile(image):  # which raises of no name; a pipe would be waited for
        raise InputError(f"there is no file {image}; names are looked for beside the list.")
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the image {image} cannot be read ({why}); check the name.") from error


def _content(name: str) -> str:
    """Of a LoRA: what is in it if it is here, and else its name on the Hub."""
    return content_at(name) or name


def state_of(folder: Path, item: Item) -> Path:
    """The file of what is computed of a larger picture, beside it. Another picture of that name has another."""
    place = folder / item.name
    name = f"{place.name}.{item.key[:NAME_DIGITS]}{STATE}"
    return place.with_name(name if len(os.fsencode(name)) <= LONGEST_COMPONENT else f"{item.key}{STATE}")
