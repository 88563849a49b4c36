"""Makes the pictures of a batch: one loaded model, whoever asks it, in this process or in a worker's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.batching.items import SAME_PICTURE, Item, digest
from dit360_core.errors import Dit360Error, InputError, ModelError, Sentence, one_line
from dit360_core.errors.log import marked_message
from dit360_core.options import LoadOptions, build, changed_options
from dit360_core.options.usual import USUAL_LARGER
from dit360_core.panorama.formats import Saving, format_of
from dit360_core.panorama.picture import Panorama, check_holds, encoded
from dit360_core.pipeline.editing.given import Given, Outline
from dit360_core.pipeline.editing.opening import Files
from dit360_core.pipeline.loading import prepare
from dit360_core.planning.checks import check_filled, check_request, picture_size
from dit360_core.planning.guidance import check_guidance
from dit360_core.planning.larger import check_wider
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.memory import gib
from dit360_core.system.progress import DOWNLOADING, telling

if TYPE_CHECKING:
    from dit360_core.pipeline.pipeline import Pipeline
    from dit360_core.pipeline.prepared import Prepared
    from dit360_core.pipeline.stages import Progress

log = logging.getLogger("dit360")


CONFIGURATIONS = 64 * 2**20
"""Bytes that a download may have which says what a model is: configurations and tokenizers, but no weights."""


class WouldBeDownloaded(Exception):
    """Files that are not on this machine, where none are to be fetched. Its text says what."""


def refuse_downloads(doing: str, done: int, total: int) -> None:
    """Raises WouldBeDownloaded instead of letting weights be downloaded, where :func:`telling` calls it."""
    if doing.startswith(DOWNLOADING) and done < total > CONFIGURATIONS:
        raise WouldBeDownloaded(f"{doing.removeprefix(DOWNLOADING).strip()} ({gib(total)})")


@attrs.frozen(kw_only=True)
class Job:
    """One picture to make, complete in itself: it may be done on another machine."""

    item: Item
    saving: Saving
    given: Given | None = None


@attrs.frozen(kw_only=True)
class Painted:
    """What became of a job.

    data: the picture's file, or None with the ``error``.
    told: what was warned of meanwhile.

    worker: who made it, empty for this process.
    """

    item: Item
    data: bytes | None = None
    error: str | None = None
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    told: tuple[str, ...] = ()
    worker: str = ""


class Painter:
    """A model that is looked for and checked at first, and loaded when asked to."""

    def __init__(self, loading: LoadOptions, largest: Item, registry: Registry | None = None) -> None:
        """largest: the picture that memory is planned for. Raises what :func:`dit360_core.load` raises of the model.

        What is wrong with that picture alone is told by :meth:`wrong`, as of every other.
        """
        self._registry = registry or default_registry()
        self._largest, self._refused = largest, ""
        try:
            # What a model that fills needs is asked of each picture, in ``wrong``.
            picture = (largest.sampling, largest.decoding)
            self._prepared: Prepared | None = prepare(loading, registry=self._registry, picture=picture, shown=True)
        except ModelError:  # of its files, which a picture changes nothing about
            raise
        except Dit360Error as error:
            self._prepared = self._without_picture(loading, error)
            self._refused = error.sentence
        self._pipe: Pipeline | None = None

    def _without_picture(self, loading: LoadOptions, error: Dit360Error) -> Prepared | None:
        """The model where it was the picture that is wrong; None: it would have to be downloaded, only to tell that.

        Raises the error where it is the model that is wrong.
        """
        try:
            with telling(refuse_downloads):
                return prepare(loading, registry=self._registry, shown=True)
        except WouldBeDownloaded:  # by then all is looked at that was wrong before
            return None
        except Dit360Error:
            raise error from None

    @property
    def _ready(self) -> Prepared:
        assert self._prepared is not None
        return self._prepared

    def wrong(self, item: Item) -> str | None:
        """What is wrong with the options of a picture for this model on this machine."""
        told = None if self._prepared is None else self._wrong(item)
        # Another worker's copy of it is the same picture by its name.
        return told or (self._refused if self._refused and item.name == self._largest.name else None)

    def _wrong(self, item: Item) -> str | None:
        plan = self._ready.plan
        try:
            for sampling in (item.sampling, *([] if item.first is None else [item.first])):
                check_request(
                    sampling,
                    item.decoding,
                    loading=plan.options,
                    model=plan.model,
                    registry=self._registry,
                    machine=self._ready.machine,
                    precision=plan.precision,
                )
            check_holds(format_of(item.name), picture_size(item.sampling, plan.model), "the picture")
            if item.first is not None:
                check_wider(item.sampling.width or 0, picture_size(item.first, plan.model)[0], "upscale")
            facts = self._ready.architecture.facts(self._ready.folder)
            check_guidance(item.sampling, plan.model, facts)
            # Transparency is a mask too, and only the file tells.
            keeps = item.files.keeps or (facts.fills and item.files.image is not None and item.files.open().keeps)
            check_filled(plan.options, fills=facts.fills, given=keeps)
            for name, strength in item.loras:
                self._ready.check_lora(name)
                build(LoadOptions, {"lora_strength": strength})
        except Dit360Error as error:
            return error.sentence
        return None

    def load(self) -> None:
        """Reads the weights."""
        with undisturbed():
            self._pipe = self._ready.load()

    @property
    def identity(self) -> dict[str, Any]:
        """What of the model's plan decides what pictures show; nothing where there is none."""
        return {} if self._prepared is None else identity(self._prepared.plan.as_dict())

    def paint(self, job: Job, progress: Progress | None = None, state: Path | None = None) -> Painted:
        """Makes one picture. What goes wrong is in the answer: the next picture may be right.

        state: file for what is computed of a larger picture, so that the same run goes on; None: nothing is kept. It is
        there afterwards, for the picture is not saved yet.
        """
        started = time.perf_counter()
        with listening() as told:
            try:
                panorama = self._panorama(job, progress, state)
                panorama = attrs.evolve(panorama, settings={**panorama.settings, "batch": {"key": job.item.key}})
                data = encoded(panorama, format_of(job.item.name), **attrs.asdict(job.saving))
            except Exception as error:
                log.debug("%s", job.item.name, exc_info=True)
                sentence = Sentence(error.sentence if isinstance(error, Dit360Error) else one_line(error))
                return Painted(item=job.item, error=sentence, seconds=time.perf_counter() - started, told=tuple(told))
        return Painted(
            item=job.item,
            data=data,
            seconds=time.perf_counter() - started,
            width=panorama.width,
            height=panorama.height,
            told=tuple(told),
        )

    def _panorama(self, job: Job, progress: Progress | None, state: Path | None) -> Panorama:
        """The picture: painted, made larger, or one after the other."""
        if self._pipe is None:
            raise RuntimeError("the model is not loaded")
        item, given = job.item, job.given
        decoding = attrs.asdict(item.decoding)
        self._pipe.set_loras(item.loras)
        painted = item.first if item.larger else item.sampling
        with undisturbed():  # or the next would be saved elsewhere
            panorama = None if given is None else given.image
            if painted is not None:
                if given is not None:
                    given.tell(painted)
                panorama = self._pipe.generate(**changed_options(painted), **decoding, given=given, progress=progress)
            assert panorama is not None
            if not item.larger:
                return panorama
            # Of a larger picture a value may be another than the usual one, and an option's default.
            usual = {name: getattr(item.sampling, name) for name in USUAL_LARGER}
            options = {**changed_options(item.sampling), **usual}
            to, prompt, _ = options.pop("width"), options.pop("prompt"), options.pop("height", None)
            if painted is None and given is not None:
                options |= changed_options(given.options)
            mask = given.mask if painted is None and given is not None else None
            return self._pipe.upscale(
                panorama,
                prompt,
                to=to,
                mask=mask,
                state=state,
                keep_state=True,
                progress=progress,
                **options,
                **decoding,
                **changed_options(item.enlarging),
            )


def job_of(item: Item, saving: Saving) -> Job:
    """Raises InputError if what it is made from cannot be opened, or is another than it was."""
    if not item.files.paths:
        return Job(item=item, saving=saving)
    for path, before in zip(item.files.paths, item.digests, strict=True):
        if digest(path) != before:
            raise InputError(f"The file {path} has been changed since the list was read; run the command again.")
    return Job(item=item, saving=saving, given=item.files.open())


def sized(item: Item, outline_of: Callable[[Files], Outline]) -> Item:
    """The item with the size of the picture that it begins with. Raises InputError if that cannot be."""
    if item.larger and item.first is None:
        outline = outline_of(item.files)
        assert outline.size is not None
        assert item.sampling.width is not None
        check_wider(item.sampling.width, outline.size[0], "upscale")
        return attrs.evolve(item, sampling=outline.begin(item.sampling))
    if item.first is not None:
        return attrs.evolve(item, first=outline_of(item.files).begin(item.first))
    return attrs.evolve(item, sampling=outline_of(item.files).begin(item.sampling))


def largest(items: Iterable[Item]) -> Item:
    """The picture that takes most memory, as far as its size and its option of true guidance tell."""

    def size(item: Item) -> tuple[int, bool]:
        # Of a picture that says nothing the model's own size is taken, which is the largest that is usual.
        wide = item.sampling.width or 2 * (item.sampling.height or 0)
        return wide or 2**20, item.sampling.true_guidance > 1

    return max(items, key=size)


def identity(used: Mapping[str, Any]) -> dict[str, Any]:
    """Of a plan, as pictures hold it in their settings, what changes the picture and ``auto`` may decide."""
    # Of a file that anybody may have written: what is no object says nothing.
    by_auto, quantization = (
        told if isinstance(told, Mapping) else {} for told in (used.get("decided"), used.get("quantization"))
    )
    decided = {name: value for name, value in by_auto.items() if name not in SAME_PICTURE}
    return {
        **decided,
        "precision": used.get("precision"),
        "quantization_mode": quantization.get("used"),
    }


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collects what is warned of, for a worker whose log nobody reads."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(marked_message(record))

    listener = Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield told
    finally:
        log.removeHandler(listener)
