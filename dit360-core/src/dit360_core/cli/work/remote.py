"""A picture that a server makes which runs on this machine: the same file, without the time that loading takes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from PIL import Image
from rich.console import Console

from dit360_core.cli import terminal
from dit360_core.cli.bar import StepBar
from dit360_core.cli.several import counted, names_of
from dit360_core.cli.wording import current
from dit360_core.cli.work.saving import usable
from dit360_core.errors import Dit360Error
from dit360_core.options import (
    OF_A_PICTURE,
    EditOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    build,
    build_own,
    changed_options,
    options_of,
    own_options,
)
from dit360_core.panorama.formats import Saving
from dit360_core.panorama.masks import open_mask
from dit360_core.panorama.photos import Photo, parsed
from dit360_core.panorama.picture import Panorama, check_save
from dit360_core.serving.asking import Gone, Server, server_for
from dit360_core.serving.wanted import LONGEST_PROMPT, MOST_PHOTOS, Upload, Wanted, upload_of
from dit360_core.system.atomic import not_lost, saved_elsewhere, write_whole
from dit360_core.system.durations import duration


def made(
    console: Console,
    prompt: str,
    output: Path,
    count: int,
    image: Path | None,
    mask: Path | None,
    photo: Sequence[str],
    saving: Mapping[str, Any],
    preview: bool,
    options: Mapping[str, Any],
) -> int:
    """How many pictures a server made; they are saved. Fewer than wanted: none runs that has this model loaded.

    The arguments are those of ``generate``. Raises what is wrong with them.
    """
    of_the_model = own_options(LoadOptions, options)
    loading = build(LoadOptions, of_the_model)
    server, why = server_for(loading)
    if server is None:
        if why:
            console.print(why, markup=False, soft_wrap=True)
        return 0
    if len(photo) > MOST_PHOTOS or len(prompt) > LONGEST_PROMPT:
        console.print(
            f"A server takes {MOST_PHOTOS} photos and a prompt of {LONGEST_PROMPT} characters at most. The model is "
            "loaded here.",
            markup=False,
            soft_wrap=True,
        )
        return 0
    saving = usable(saving, output)
    wanted = _wanted(prompt, output, image, mask, photo, saving, options, frozenset(of_the_model))
    outputs = names_of(output, count)
    shows = preview and terminal.check(console)
    for one in outputs:
        check_save(one, **saving, width=wanted.sampling.width)
    for number, one in enumerate(outputs):
        seed = counted(wanted.sampling, number).seed
        each = attrs.evolve(wanted, options={**wanted.options, **({} if seed is None else {"seed": seed})})
        try:
            _one(console, server, each, one, force=saving["force"], shows=shows)
        except Gone as error:
            console.print(f"{error} The model is loaded here.", markup=False, soft_wrap=True)
            return number
        if shows:
            terminal.show(console, Panorama.open(one).image)
    return count


def _one(console: Console, server: Server, wanted: Wanted, output: Path, *, force: bool, shows: bool) -> None:
    started = time.perf_counter()
    bar = StepBar(console)
    with bar as advance:
        follow = _Following(console, server, bar, advance, shows=shows)
        data, news = server.picture(wanted, follow)
    for line in news["told"]:
        console.print(line, markup=False, soft_wrap=True)
    try:
        write_whole(data, output, force=force)
    except Dit360Error as error:  # the disk is full, or another program took the name
        kept = saved_elsewhere(output, partial(write_whole, data))
        if kept is None:
            raise
        raise not_lost(error, kept) from error
    server.forget(news["number"])
    console.print(
        f"Saved {output} ({news['width']}×{news['height']}, seed {news['seed']}; by the server at "
        f"{server.place.address}, {duration(time.perf_counter() - started)})",
        markup=False,
        soft_wrap=True,
    )


class _Following:
    """Shows how a picture comes."""

    def __init__(
        self, console: Console, server: Server, bar: StepBar, advance: Callable[[int, int], None], *, shows: bool
    ) -> None:
        """shows: the picture too, in the middle of its steps."""
        self._console, self._server, self._bar, self._advance = console, server, bar, advance
        self._shows = shows

    def __call__(self, news: Mapping[str, Any]) -> None:
        """What is new of it."""
        if news["steps"]:
            self._advance(news["done"], news["steps"])
        self._bar.say(news.get("doing", ""))  # which an older server does not tell
        if self._shows and news["preview"] and news["steps"] > 1 and 2 * news["done"] >= news["steps"]:
            self._shows = False
            if jpeg := self._server.preview(news["number"]):
                terminal.show(self._console, Image.open(io.BytesIO(jpeg)))


def _wanted(
    prompt: str, output: Path, image: Path | None, mask: Path | None, photo: Sequence[str],
    saving: Mapping[str, Any], options: Mapping[str, Any], of_the_model: frozenset[str],
) -> Wanted:  # fmt: skip
    own: dict[str, Any] = {"prompt": prompt}
    for cls in OF_A_PICTURE:
        # A flag of both is the model's, as for a picture that is made here.
        given = {name: value for name, value in own_options(cls, options).items() if name not in of_the_model}
        own |= changed_options(build(cls, {"prompt": prompt, **given} if cls is SampleOptions else given))
    files: dict[str, Upload] = {}
    placing = build_own(PhotoOptions, options)
    # Opened here first, so that what is wrong with a file is told by its own name, and a pipe is not waited for.
    hole = None
    if image is not None:
        hole = Panorama.open_whole(image).hole
        files["image"] = upload_of(image)
    if mask is not None:
        open_mask(mask)
        files["mask"] = upload_of(mask)
    for number, text in enumerate(photo, 1):
        where = parsed(text, placing)
        path = Path(where.pop("path"))
        Photo.open(path, **where)
        files[f"photo-{number}"] = upload_of(path, text.partition(";")[2])
    if not (mask or photo or hole is not None or own.get("region")):  # which say what is kept
        needless = current().taken.options & frozenset(options_of(EditOptions))
        own = {name: value for name, value in own.items() if name not in needless}
    kinds = {field.name for field in attrs.fields(Saving)}
    how_saved = Saving(**{name: value for name, value in saving.items() if name in kinds})
    return Wanted(options=own, files=files, format=output.suffix.lower(), saving=how_saved, keep=False)
