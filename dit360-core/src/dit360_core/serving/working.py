"""The one model of a server and those who wait for it: one picture after the other, in a thread of its own."""

from __future__ import annotations

import collections
import gc
import io
import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.batching.items import SAME_PICTURE
from dit360_core.batching.painting import listening
from dit360_core.errors import Dit360Error, InputError, Sentence, one_line
from dit360_core.options import DecodeOptions, EditOptions, LoadOptions, PhotoOptions, build_own, changed_options
from dit360_core.panorama.formats import FORMATS
from dit360_core.panorama.picture import Panorama, check_held, encoded
from dit360_core.pipeline.editing.given import Given
from dit360_core.pipeline.editing.opening import Files
from dit360_core.pipeline.loading import prepare
from dit360_core.plugins.guarding import undisturbed
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.serving.identity import identity
from dit360_core.serving.shelf import Shelf
from dit360_core.serving.wanted import Wanted
from dit360_core.system.memory import give_back_freed_memory
from dit360_core.system.progress import in_words, telling

if TYPE_CHECKING:
    from dit360_core.pipeline.pipeline import Pipeline
    from dit360_core.pipeline.prepared import Prepared

log = logging.getLogger("dit360")

MOST_WAITING = 100
MOST_UPLOADED = 2**30
"""Bytes of all files that come with requests which wait."""
REMEMBERED, HELD = 64, 8
"""Requests that are done, of which a client may still ask, and how many of their pictures are held in memory: of those
that could not be written, as many as are remembered."""
_HOW = SAME_PICTURE - {"precision", "quantization_mode"}
"""Options of a model that say how it is computed, and not what pictures show; from some ``auto`` decides the rest."""
PREVIEW = 384
"""Columns of previews, about."""


class Full(Exception):
    """So many wait that no more are taken."""


class _Cancelled(Exception):
    pass


@attrs.define(kw_only=True, eq=False)
class Job:
    """A picture that is being made, or waits, or is done.

    number: by which a client asks for it; nobody can guess it.
    status: waiting, loading, sampling, decoding, done, failed or cancelled.
    done, steps: of sampling.
    doing: what is being read or moved in its course, with the share that is done; empty: nothing.
    version: counts up with every change.
    error: of one that failed, a sentence.
    wrong: whether the request was at fault, and not this machine.
    name: of the picture in the folder.
    data: the picture's file, of one that is not kept there.
    told: what was warned of.
    preview: the picture as it is expected by now, a small JPEG.
    settings: of the picture.
    seconds: that it took, with loading.
    unsaved: whether its file could not be written to the folder; "data" has it.
    """

    number: str
    wanted: Wanted
    status: str = "waiting"
    done: int = 0
    steps: int = 0
    doing: str = ""
    version: int = 0
    error: str = ""
    wrong: bool = False
    name: str = ""
    data: bytes | None = attrs.field(default=None, repr=False)
    told: tuple[str, ...] = ()
    preview: bytes | None = attrs.field(default=None, repr=False)
    settings: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    seconds: float = 0.0
    cancelled: bool = False
    unsaved: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ("done", "failed", "cancelled")


class Worker:
    """Makes the pictures. Its methods may be called by any thread."""

    def __init__(
        self, loading: LoadOptions, shelf: Shelf, *, idle: float = 0.0, registry: Registry | None = None
    ) -> None:
        """idle: seconds without a request after which the weights leave memory; 0: they stay."""
        self._loading, self._shelf, self._idle = loading, shelf, min(idle, threading.TIMEOUT_MAX)
        # What decides how pictures are computed may be another after a crash, which it may have caused.
        self._model = {name: value for name, value in identity(loading, files=False).items() if name not in _HOW}
        self._registry = registry or default_registry()
        self._ready: Prepared | None = prepare(loading, registry=self._registry)
        self._plan = self._ready.plan
        self._pipe: Pipeline | None = None
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._queue: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._ending = False
        self._running: Job | None = None
        self._thread = threading.Thread(target=self._run, name="dit360 model", daemon=True)

    # ------------------------------------------------------------------------------------------------------- outside

    @property
    def plan(self) -> Any:
        """What was decided about the model."""
        return self._plan

    def start(self) -> int:
        """Begins, with what an earlier process left. Returns how many those are."""
        left = [Job(number=number, wanted=wanted) for number, wanted in self._shelf.left(self._model)]
        for job in left:
            self._jobs[job.number] = job
            self._queue.append(job)
        self._thread.start()
        return len(left)

    def submit(self, requests: Mapping[str, Wanted]) -> list[Job]:
        """Takes requests, all or none, by their numbers. Raises Full."""
        self._check_room(requests)
        for number, wanted in requests.items():  # to the disk, while nobody waits for this
            if wanted.keep:
                self._shelf.wait(number, wanted, self._model)
        jobs = [Job(number=number, wanted=wanted) for number, wanted in requests.items()]
        try:
            with self._changed:
                self._check_room(requests)
                for job in jobs:
                    self._jobs[job.number] = job
                    self._queue.append(job)
                self._forget()
                self._changed.notify_all()
        except Full:
            for job in jobs:
                self._shelf.done(job.number)
            raise
        return jobs

    def _check_room(self, requests: Mapping[str, Wanted]) -> None:
        with self._changed:
            waiting = [*(job.wanted for job in self._queue), *requests.values()]
        uploaded = sum(len(upload.data) for wanted in waiting for upload in wanted.files.values())
        if len(waiting) > MOST_WAITING or uploaded > MOST_UPLOADED:
            raise Full

    def job(self, number: str) -> Job | None:
        """One that is known still."""
        with self._changed:
            return self._jobs.get(number)

    def cancel(self, job: Job) -> None:
        """It is not made, or not to its end; of one that is done, nobody wants the picture from here any more."""
        if job.unsaved:  # whoever asked has it, or does not want it
            job.unsaved = False
            self._shelf.done(job.number)
        with self._changed:
            job.cancelled, job.data = True, None
            waits = job in self._queue
            if waits:
                self._queue.remove(job)
        if waits:
            self._end(job, "cancelled")

    def going(self) -> list[Job]:
        """Those that are being made, and those that wait, in their order; and those whose file could not be written."""
        with self._changed:
            return [job for job in self._jobs.values() if not job.over or job.unsaved]

    def waiting(self) -> int:
        """How many wait or are being made."""
        return sum(not job.over for job in self.going())

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._pipe is not None

    def ahead(self, job: Job) -> int:
        """How many come before it."""
        with self._changed:
            before = 0
            for other in self._jobs.values():
                if other is job:
                    break
                before += not other.over
            return before

    def stop(self) -> None:
        """No more pictures. One that is being made stays among those that wait, for the next start."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(timeout=5)
        with self._changed:  # in the middle of a long step, which ends with the process
            running, self._running = self._running, None
        if running is not None and running.wanted.keep:
            self._shelf.leave(running.number)

    # -------------------------------------------------------------------------------------------------------- inside

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    if not self._changed.wait(self._idle if self._pipe is not None and self._idle else None):
                        self._unload()
                if self._ending:
                    return
                job = self._queue.popleft()
            try:
                self._make(job)
            except Exception as error:  # whatever it is, others wait
                log.exception("A request could not be ended.")
                self._tell(job, status="failed", error=Sentence(one_line(error)), doing="")

    def _make(self, job: Job) -> None:
        started = time.perf_counter()
        if job.wanted.keep:
            self._shelf.begin(job.number)
        with self._changed:
            self._running = job
        with listening() as told:
            try:
                with telling(partial(self._slow, job)):
                    self._paint(job)
                status = "done"
            except _Cancelled:
                if self._ending and not job.cancelled:
                    return  # it waits in the folder, and "stop" says that it was not begun
                status = "cancelled"
            except Exception as error:
                log.debug("%s", job.number, exc_info=True)
                job.error = Sentence(error.sentence if isinstance(error, Dit360Error) else one_line(error))
                job.wrong = isinstance(error, InputError)
                log.error("A picture could not be made: %s", job.error)
                status = "failed"
        with self._changed:
            self._running = None
        job.told, job.seconds, job.preview = tuple(told), time.perf_counter() - started, None
        self._end(job, status)

    def _end(self, job: Job, status: str) -> None:
        # What it was made from may be large, and is used up.
        job.wanted = attrs.evolve(job.wanted, files={})
        # Before anybody is told: who sees it ended finds nothing that waits.
        if job.unsaved:
            self._shelf.leave(job.number)
        elif job.wanted.keep:
            self._shelf.done(job.number)
        self._tell(job, status=status, doing="")

    def _tell(self, job: Job, **changes: Any) -> None:
        with self._changed:
            for name, value in changes.items():
                setattr(job, name, value)
            job.version += 1
            self._changed.notify_all()

    def _paint(self, job: Job) -> None:
        wanted = job.wanted
        with tempfile.TemporaryDirectory(prefix="dit360-") as folder:
            given = self._given(wanted, Path(folder))
        sampling = given.outline.begin(wanted.sampling)
        given.tell(sampling)
        check_held(FORMATS[wanted.format], sampling.width)
        self._look(job)
        pipe = self._loaded(job)
        steps = sampling.steps or pipe.plan.model.steps
        self._tell(job, status="sampling", steps=steps)
        decoding = build_own(DecodeOptions, dict(wanted.options))
        asked = changed_options(sampling)

        def tap(done: int, of: int, expected: Any) -> None:
            self._look(job)
            picture = pipe.preview(expected, width=PREVIEW)
            buffer = io.BytesIO()
            picture.image.save(buffer, "JPEG", quality=80)
            self._tell(
                job, done=done, steps=of, preview=buffer.getvalue(), status="decoding" if done == of else "sampling"
            )

        with undisturbed():
            panorama = pipe.generate(**asked, **attrs.asdict(decoding), given=given, tap=tap)
        self._put(job, panorama)

    def _put(self, job: Job, panorama: Panorama) -> None:
        self._look(job)
        wanted = job.wanted
        data = encoded(panorama, FORMATS[wanted.format], **attrs.asdict(wanted.saving))
        used: Any = panorama.settings["used"]
        job.settings = {"seed": used["seed"], "width": panorama.width, "height": panorama.height}
        if not wanted.keep:
            job.data = data
            return
        try:
            job.name = self._shelf.put(wanted.prompt, used["seed"], wanted.format, data)
        except Dit360Error as error:  # the disk is full, or the folder went away: minutes of work are in memory still
            job.data, job.unsaved = data, True
            log.error("%s", error)
            log.warning(
                "The picture is not lost: it is held in memory, and the request stays in %s for the next start.",
                self._shelf.folder,
            )

    def _given(self, wanted: Wanted, folder: Path) -> Given:
        """What a picture is made from, by way of files whose names are ours."""
        places: dict[str, Path] = {}
        for slot, upload in wanted.files.items():
            places[slot] = folder / f"{slot}{upload.ending}"
            places[slot].write_bytes(upload.data)
        photos = [
            ";".join(filter(None, (places[slot].name, upload.how)))
            for slot, upload in wanted.files.items()
            if slot.startswith("photo")
        ]
        options = dict(wanted.options)
        files = Files(
            image=places.get("image"),
            mask=places.get("mask"),
            photos=tuple(photos),
            placing=build_own(PhotoOptions, options),
            options=build_own(EditOptions, options),
            folder=folder,
        )
        try:
            return files.open()
        except Dit360Error as error:
            # A client knows its own file, and not where it lay here.
            raise InputError(error.sentence.replace(f"{folder}/", "")) from None

    def _loaded(self, job: Job) -> Pipeline:
        if self._pipe is None:
            self._tell(job, status="loading")
            # What was prepared is used up by loading, to its end or not.
            ready, self._ready = self._ready, None
            with undisturbed():
                ready = ready or prepare(self._loading, registry=self._registry)
                self._pipe = ready.load()
            self._plan = ready.plan
        return self._pipe

    def _slow(self, job: Job, doing: str, done: int, total: int) -> None:
        self._look(job)
        self._tell(job, doing=in_words(doing, done, total))

    def _look(self, job: Job) -> None:
        if job.cancelled or self._ending:
            raise _Cancelled

    def _unload(self) -> None:
        self._pipe = None
        gc.collect()
        give_back_freed_memory(self._plan.device)
        log.info("Nothing was asked for %g s; the weights have left memory.", self._idle)

    def _forget(self) -> None:
        over = [number for number, job in self._jobs.items() if job.over and not job.unsaved]
        for number in over[: max(0, len(over) - REMEMBERED)]:
            del self._jobs[number]
        # Of those that could not be written the request stays in the folder, so that none is lost for ever.
        for unsaved, most in ((False, HELD), (True, REMEMBERED)):
            held = [job for job in self._jobs.values() if job.data is not None and job.unsaved is unsaved]
            for job in held[: max(0, len(held) - most)]:
                job.data, job.unsaved = None, False
