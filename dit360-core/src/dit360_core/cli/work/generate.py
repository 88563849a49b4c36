"""Makes one picture: what was asked is checked, the model loaded, the picture made, saved and told of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Console
from rich.table import Table

from dit360_core.cli import terminal
from dit360_core.cli.bar import LoadingBar, StepBar
from dit360_core.cli.several import counted, names_of
from dit360_core.cli.timeline import check_timeline, save_timeline
from dit360_core.cli.wording import current
from dit360_core.cli.work.saving import usable
from dit360_core.errors import Dit360Error
from dit360_core.options import (
    DecodeOptions,
    EditOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    budget_of,
    build,
    build_own,
    changed_options,
    own_options,
)
from dit360_core.panorama.formats import format_of
from dit360_core.panorama.picture import Panorama, check_held, check_save, rescue
from dit360_core.pipeline.editing.opening import Files
from dit360_core.pipeline.loading import prepare
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.registry import default_registry
from dit360_core.system.atomic import not_lost
from dit360_core.system.durations import duration
from dit360_core.system.memory import gib
from dit360_core.system.phases import PhaseKind
from dit360_core.system.recording import Recorder

if TYPE_CHECKING:
    from dit360_core.pipeline.pipeline import Pipeline
    from dit360_core.pipeline.stages import Latents


def run(
    console: Console,
    prompt: str,
    output: Path,
    count: int,
    image: Path | None,
    mask: Path | None,
    photo: Sequence[str],
    saving: dict[str, Any],
    open_viewer: bool,
    profile: Path | None,
    preview: bool,
    options: dict[str, Any],
    *,
    made: int = 0,
) -> None:
    """Makes a picture and saves it, or several.

    count: of them.
    preview: show it in the terminal, in the middle and at the end.
    saving: how, for Panorama.save.
    made: how many of them are there already.
    """
    saving = usable(saving, output)
    force = saving["force"]
    # Everything that can be wrong is looked at in the order of its cost; torch is imported only after this.
    of_the_model = own_options(LoadOptions, options)
    loading = build(LoadOptions, of_the_model)
    # A flag of both is the model's: it is loaded for this picture alone, which need not override it.
    own = {name: value for name, value in own_options(SampleOptions, options).items() if name not in of_the_model}
    sampling = build(SampleOptions, {"prompt": prompt, **own})
    decoding = build_own(DecodeOptions, options)
    placing, editing = build_own(PhotoOptions, options), own_options(EditOptions, options)
    files = Files(
        image=image, mask=mask, photos=tuple(photo), placing=placing, options=build(EditOptions, editing),
        for_all=current().taken.options & frozenset(editing),
    )  # fmt: skip
    outputs = names_of(output, count)[made:]
    shows = preview and terminal.check(console)
    for one in outputs:
        check_save(one, **saving)
    if profile is not None:
        check_timeline(profile, force=force)
    given = files.open()
    sampling = given.outline.begin(sampling)
    for one in outputs:
        check_held(format_of(one), sampling.width)  # which a picture may have decided that is given
    given.tell(sampling)

    started = time.perf_counter()
    with LoadingBar(console, loading.model):
        ready = prepare(
            loading,
            registry=default_registry(),
            picture=(sampling, decoding),
            shown=given.keeps,
            referring=given.keeps and given.options.reference == "auto",
        )
        recorder = Recorder(ready.plan.device) if profile is not None or sampling.log_memory_stats else None
        with recorder.phase("loading", PhaseKind.LOADING) if recorder is not None else nullcontext(), undisturbed():
            pipe = ready.load(recorder)
    loaded = time.perf_counter()
    for number, one in enumerate(outputs, made):
        began = time.perf_counter()
        each = counted(sampling, number)
        asked = changed_options(each)
        with StepBar(console) as advance, undisturbed():
            tap = partial(_shown, console, pipe) if shows else None
            panorama = pipe.generate(**asked, **attrs.asdict(decoding), given=given, progress=advance, tap=tap)
        done = time.perf_counter()
        saved(panorama, one, saving)
        if shows:
            terminal.show(console, panorama.image)
        used: Any = panorama.settings["used"]
        loading_too = f"loading {duration(loaded - started)}, " if number == made else ""
        console.print(
            f"Saved {one} ({panorama.width}×{panorama.height}, seed {used['seed']}; "
            f"{loading_too}generation {duration(done - began)})",
            markup=False,
            soft_wrap=True,
        )
        if sampling.log_memory_stats:
            _show_memory(console, used["memory"])
    if profile is not None and recorder is not None:
        predicted = {phase["name"]: phase["predicted"] for phase in used["memory"]["phases"] if phase["predicted"]}
        budget = budget_of(loading.vram) if loading.vram is not None else None
        title = f"{loading.model}, {panorama.width}×{panorama.height}, {used['steps']} steps"
        save_timeline(profile, recorder.recording, title=title, predicted=predicted, budget=budget, force=force)
        console.print(f"Wrote {profile}", markup=False, soft_wrap=True)
    if open_viewer:
        panorama.view(file=outputs[-1])


def _shown(console: Console, pipe: Pipeline, done: int, steps: int, expected: Latents) -> None:
    """The picture as it is expected by now, in the middle of its steps."""
    if done == (steps + 1) // 2 and steps > 1:
        terminal.show(console, pipe.preview(expected, scale=4).image)


def saved(panorama: Panorama, output: Path, saving: dict[str, Any]) -> None:
    """Saves a picture, or tells where it is instead. Raises Dit360Error.

    saving: how, for Panorama.save.
    """
    try:
        panorama.save(output, **saving)
    except Dit360Error as error:  # after minutes of computing: the disk is full, or another program took the name
        kept = rescue(panorama, output, **{name: value for name, value in saving.items() if name != "force"})
        if kept is None:
            raise
        raise not_lost(error, kept) from error


def _show_memory(console: Console, told: dict[str, Any]) -> None:
    """What each phase took, beside what was predicted."""
    reserved = any("reserved" in phase for phase in told["phases"])
    table = Table("phase", "before", "at most", *(["reserved"] if reserved else []), "predicted", "after", "time")
    for phase in told["phases"]:
        table.add_row(
            phase["name"],
            gib(phase["before"]),
            gib(phase["peak"]),
            *([gib(phase.get("reserved", 0))] if reserved else []),
            gib(phase["predicted"]) if phase["predicted"] else "",
            gib(phase["after"]),
            duration(phase["seconds"]),
        )
    console.print(table)
