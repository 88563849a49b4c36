"""Makes a picture larger, and keeps what was computed until that is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from dit360_core.cli.bar import LoadingBar, StepBar
from dit360_core.cli.several import check_is_named
from dit360_core.cli.work.generate import saved
from dit360_core.cli.work.saving import usable
from dit360_core.options import DecodeOptions, EditOptions, LargerOptions, LoadOptions, build, build_own, own_options
from dit360_core.panorama.formats import BY_NAME, format_of
from dit360_core.panorama.masks import open_mask
from dit360_core.panorama.opening import check_opens
from dit360_core.panorama.picture import Panorama, check_save
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.state_file import SOURCE, check_state
from dit360_core.planning.larger import (
    STATE,
    asked_but_steps,
    asked_of,
    check_larger,
    source_told,
    told_of,
    told_prompt,
)
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.registry import default_registry
from dit360_core.system.durations import duration


def run(
    console: Console,
    file: Path,
    prompt: str | None,
    to: int,
    output: Path | None,
    mask: Path | None,
    saving: dict[str, Any],
    open_viewer: bool,
    options: dict[str, Any],
) -> None:
    """Makes the picture and saves it. Everything that can be wrong is looked at in the order of its cost.

    saving: how, for Panorama.save.
    """
    of_the_model = own_options(LoadOptions, options)
    loading = build(LoadOptions, of_the_model)
    decoding = build_own(DecodeOptions, options)
    editing = build_own(EditOptions, options)
    build_own(LargerOptions, options)
    check_opens(file)  # before a name is made of its own
    if output is not None:
        check_is_named(output)
    target = output if output is not None else file.with_name(f"{file.stem}-{to}{file.suffix}")
    saving = usable(saving, target)
    state = target.with_name(target.name + STATE)
    check_save(target, **saving, width=to)
    check_state(state)
    picture = Panorama.open_whole(file)
    saving = _as_deep(console, picture, file, target, saving, named=output is not None)
    check_larger(picture, to)
    words = prompt if prompt is not None else told_prompt(picture)
    told = picture.settings.get("used")
    before = told.get("model") if isinstance(told, Mapping) else None
    if isinstance(before, str) and before != loading.model:
        console.print(
            f"{file} was made with {before}, and is made larger with {loading.model}; --model {before} would be the "
            "same.",
            markup=False,
            soft_wrap=True,
        )
    hole = None if mask is None else open_mask(mask)
    # Of the small picture, with which all is wrong that is with the large one; transparency is no mask here.
    given = Given(image=attrs.evolve(picture, hole=None), mask=hole, options=editing)
    own = {name: value for name, value in options.items() if name not in of_the_model}
    known = told_of(asked_but_steps(picture, words, to, own), editing, hole)
    check_state(state, {**known, SOURCE: source_told(picture.image.tobytes())})
    started = time.perf_counter()
    with LoadingBar(console, loading.model):
        ready = prepare(loading, registry=default_registry())
        asked = asked_of(picture, words, to, own, ready.plan.model)
        ready = prepare(loading, registry=default_registry(), picture=(asked, decoding), shown=given.keeps)
        with undisturbed():
            pipe = ready.load()
    loaded = time.perf_counter()
    began = False

    def advance(step: Callable[[int, int], None], done: int, steps: int) -> None:
        nonlocal began
        began = True
        step(done, steps)

    try:
        with StepBar(console) as step, undisturbed():
            panorama = pipe.upscale(
                picture, words, to=to, mask=hole, state=state, keep_state=True, progress=partial(advance, step), **own
            )
        done = time.perf_counter()
        saved(panorama, target, saving)
    except BaseException:
        if began and os.path.exists(state):
            console.print(
                f"What is done is kept in {state}; run the same command again to go on.", markup=False, soft_wrap=True
            )
        raise
    state.unlink(missing_ok=True)
    used: Any = panorama.settings["used"]
    windows = used.get("windows", {}).get("count", 1)
    console.print(
        f"Saved {target} ({panorama.width}×{panorama.height} of {picture.width}×{picture.height}, "
        f"{windows} window{'' if windows == 1 else 's'}, seed {used['seed']}; loading {duration(loaded - started)}, "
        f"making it {duration(done - loaded)})",
        markup=False,
        soft_wrap=True,
    )
    if open_viewer:
        panorama.view(file=target)


def _as_deep(
    console: Console, picture: Panorama, file: Path, target: Path, saving: dict[str, Any], *, named: bool
) -> dict[str, Any]:
    """How a larger picture is saved, so that none of a picture's bits is lost that nobody gave up.

    file: of the picture.
    saving: as it is asked.
    named: whether somebody named the target, which may hold no more than 8 bits; that is told.
    """
    possible = BY_NAME[format_of(target)].bits
    if picture.floats is None or saving["bits"] is not None or possible[0] > 8:
        return saving
    if not named and 16 in possible:
        return {**saving, "bits": 16}
    console.print(f"{file} has more than 8 bits a channel, and {target} will have 8.", markup=False, soft_wrap=True)
    return saving
