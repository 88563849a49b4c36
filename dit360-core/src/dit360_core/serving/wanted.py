"""A picture that is asked of a server: what it shows, what it is made from, as which file it is wanted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import InputError, named
from dit360_core.options import OF_A_PICTURE, SampleOptions, build_own, check_of_a_picture
from dit360_core.panorama.formats import FORMATS, Saving, check_format
from dit360_core.panorama.picture import check_held, check_quality

MOST_PHOTOS = 8
LONGEST_PROMPT = 20_000
"""Characters."""


@attrs.frozen(kw_only=True)
class Upload:
    """A file that a client gives. Its name is never that of a file here.

    ending: of its name, where that is a format's, else empty.
    how: of a photo, where it lies: ``fov=60;yaw=90``.
    """

    data: bytes = attrs.field(repr=False)
    ending: str = ""
    how: str = ""


@attrs.frozen(kw_only=True)
class Wanted:
    """A picture, checked as far as can be without the model.

    options: of the option classes of a picture, by name, with the prompt.
    files: "image", "mask", "photo-1" … → what it is made from.
    format: ending of the file that is wanted, with its dot.
    keep: whether it stays in the server's folder, where the page shows it.
    """

    options: Mapping[str, Any]
    files: Mapping[str, Upload] = attrs.field(factory=dict)
    format: str = ".jpg"
    saving: Saving = attrs.field(factory=Saving)
    keep: bool = True

    def __attrs_post_init__(self) -> None:
        check_of_a_picture(self.options, instead="start the server with it")
        if not isinstance(self.options.get("prompt"), str):
            raise InputError("there is no prompt; say what the panorama shows.")
        if len(self.options["prompt"]) > LONGEST_PROMPT:
            raise InputError(f"the prompt has over {LONGEST_PROMPT} characters; shorten it.")
        for cls in OF_A_PICTURE:
            build_own(cls, dict(self.options))
        if self.format not in FORMATS:
            raise InputError(f"format is {self.format[1:]!r:.40}, but must be one of: {_endings()}.")
        check_held(FORMATS[self.format], self.sampling.width)
        check_format(FORMATS[self.format], bits=self.saving.bits, expand_highlights=self.saving.expand_highlights)

    @property
    def prompt(self) -> str:
        """What it shows."""
        return str(self.options["prompt"])

    @property
    def sampling(self) -> SampleOptions:
        """Its options of sampling."""
        return build_own(SampleOptions, dict(self.options))

    def as_json(self) -> dict[str, Any]:
        """For the wire, and for a file in which it waits."""
        return {
            "options": dict(self.options),
            "files": {
                name: {"data": base64.b64encode(one.data).decode(), "ending": one.ending, "how": one.how}
                for name, one in self.files.items()
            },
            "format": self.format[1:],
            "keep": self.keep,
            **attrs.asdict(self.saving),
        }


def upload_of(path: Path, how: str = "") -> Upload:
    """A file of this machine, for a server. Raises InputError if it cannot be read."""
    try:
        return Upload(data=path.read_bytes(), ending=ending_of(path.name), how=how)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}; check the name.") from error


def ending_of(name: str) -> str:
    """Of a file's name, where it is a format's."""
    ending = Path(name.replace("\\", "/").rpartition("/")[2]).suffix.lower() if "\0" not in name else ""
    return ending if ending in FORMATS else ""


def wanted_of(told: Any) -> Wanted:
    """What a client wrote in JSON, as :meth:`Wanted.as_json` does. Raises InputError for what is none."""
    if not isinstance(told, Mapping):
        raise InputError('the request is no JSON object; write {"options": {"prompt": "…"}}.')
    known = {"options", "files", "format", "keep", *(field.name for field in attrs.fields(Saving))}
    unknown = sorted(set(told) - known)
    if unknown:
        raise InputError(f"the request has {unknown[0]!r:.80}, which is not known; take {', '.join(sorted(known))}.")
    options, files = told.get("options", {}), told.get("files", {})
    if not isinstance(options, Mapping) or not isinstance(files, Mapping):
        raise InputError("options and files of a request are JSON objects.")
    saving = {field.name: told[field.name] for field in attrs.fields(Saving) if field.name in told}
    own = {str(name): value for name, value in options.items() if value is not None}
    seed = own.get("seed")
    if isinstance(seed, str) and seed.isascii() and seed.isdigit() and len(seed) < 21:
        own["seed"] = int(seed)  # of a page, whose numbers end at 2^53
    return Wanted(
        options=own,
        files=_uploads(files),
        format=f".{told.get('format', 'jpg')}".lower(),
        saving=saving_of(saving),
        keep=told.get("keep", True) is True,
    )


def saving_of(told: Mapping[str, Any]) -> Saving:
    """How a file is written. Raises InputError for values of other types."""
    kinds: dict[str, tuple[type, ...]] = {"quality": (int,), "bits": (int, type(None)), "expand_highlights": (bool,)}
    for name, value in told.items():
        if type(value) not in kinds.get(name, (type(value),)):
            raise InputError(f"{named(name)} is {value!r:.80}, which is of another type than it takes.")
    check_quality(told.get("quality", Saving().quality))
    return Saving(**told)


def _uploads(files: Mapping[str, Any]) -> dict[str, Upload]:
    slots = ["image", "mask", *(f"photo-{number}" for number in range(1, MOST_PHOTOS + 1))]
    found: dict[str, Upload] = {}
    for name, one in files.items():
        if name not in slots:
            raise InputError(f"there is no file {str(name)!r:.80}; take {', '.join(slots)}.")
        if not isinstance(one, Mapping) or not isinstance(one.get("data"), str):
            raise InputError(f'the file {name} is none; write {{"data": "…base64…"}}.')
        try:
            data = base64.b64decode(one["data"], validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"the data of {name} are not in base64.") from None
        found[name] = Upload(data=data, ending=ending_of(f"x{one.get('ending', '')}"), how=str(one.get("how", "")))
    return found


def _endings() -> str:
    return ", ".join(ending[1:] for ending in FORMATS)
