"""A model as the nodes hand it on: read when it is first used, dropped when its memory is wanted, read again."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.prepared import Prepared
from dit360_core.plugins.registry import default_registry
from dit360_core.system.memory import free_memory, gib
from dit360_core.system.phases import PhaseKind

from dit360_comfy import host
from dit360_comfy.device import SharedDevice, give_back_memory

log = logging.getLogger("dit360")


class Source:
    """One set of load options, and its pipeline while that is in memory. Made by :func:`source_of`.

    only: the parts that are wanted of it; others are read where they are needed all the same, and dropped. None: all.
    changes_what_stays: whether its LoRA changes a text encoder that is too small ever to be dropped.
    """

    def __init__(self, options: LoadOptions, only: frozenset[str] | None = None) -> None:
        """Raises what loading would raise, but for the weights themselves, which are not read yet."""
        self.options = options
        self.only = only
        host.check_interrupt()
        with host.slow_things_shown():
            self.prepared: Prepared = prepare(options, registry=default_registry())
        # Whether it fits is seen here, and not when the weights are read.
        changed = {part for one in self.prepared.loras() for part in one.lora.layers}
        family = self.prepared.architecture
        self.changes_what_stays = any(family.part(name).small for name in changed)
        self._pipeline: Pipeline | None = None
        self._device = SharedDevice()
        self._at_hand: frozenset[str] = frozenset()
        self._lock = threading.RLock()
        self._depth = 0
        # ComfyUI drops it with the results of a graph, and knows nothing of what the C library then keeps.
        weakref.finalize(self, _gone.put, None).atexit = False

    @property
    def in_memory(self) -> bool:
        return self._pipeline is not None

    @property
    def at_work(self) -> bool:
        """Whether a stage of it waits for another model, so that it must not be dropped for that."""
        return self._depth > 0

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline at work: nobody else uses it meanwhile, ComfyUI can stop it, and its memory is ComfyUI's."""
        with self._lock, _at_work, host.plain_mode(), host.slow_things_shown():
            host.check_interrupt()
            pipeline = self._loaded()
            self._at_hand = frozenset()
            self._depth += 1
            try:
                with pipeline.interruptible(host.check_interrupt):
                    yield pipeline
            finally:
                self._depth -= 1

    def _loaded(self) -> Pipeline:
        if self._pipeline is None:
            _make_room(self)
            self._pipeline = attrs.evolve(self.prepared, host=_Host(self)).load()
            self._pipeline.engine.residency.kept = self.only or frozenset()
        return self._pipeline

    def bring(self, names: Collection[str]) -> None:
        """Has ComfyUI make room for parts, and put those on the device that the core does not."""
        pipeline = self._pipeline
        assert pipeline is not None, "a part is used before its pipeline is there"
        if self._at_hand.issuperset(names):
            return  # of the same stage: each step asks again, and nobody else ran since the last one
        offload = pipeline.engine.residency.offload
        parts = {name: part for name in names if (part := getattr(pipeline.engine.pipe, name, None)) is not None}
        family = pipeline.engine.architecture
        core_s = [name for name in parts if family.moved_by_the_core(offload, name)]
        ours = {name: part for name, part in parts.items() if name not in core_s}
        self._at_hand = frozenset()  # what was there may have to go
        self._device.use(ours, core_s, pipeline.engine.device)
        self._at_hand = frozenset(names)

    def let_go(self, names: Collection[str]) -> None:
        """Of parts that are to be freed."""
        self._at_hand -= set(names)
        self._device.forget(names)

    def make_room(self) -> None:
        """Has ComfyUI move the models of other nodes away."""
        if self._pipeline is not None:
            self._device.make_room(self._pipeline.engine.device)

    def expect(self, phase: PhaseKind, **options: Any) -> None:
        """Tells ComfyUI what the next stage takes.

        options: of the picture, for Pipeline.predict.
        """
        pipeline = self._pipeline
        if pipeline is not None and pipeline.plan.device != "cpu":
            predicted = pipeline.predict(**options).phase(phase)
            self._device.weights, self._device.working = int(predicted.weights), int(predicted.working)

    def unload(self) -> bool:
        """Drops the weights. They are read again when they are next used. Returns whether there were any."""
        with self._lock:
            if self._pipeline is None:
                return False
            self._device.forget()
            self._pipeline = None
        give_back_memory()
        return True


class _Host:
    """What the core tells of a source's parts (``dit360_core.models.residency.residency.Host``).

    The source holds the pipeline, which holds this: the source has to go when its node's result does.
    """

    def __init__(self, source: Source) -> None:
        self._source = weakref.ref(source)

    def use(self, names: Collection[str]) -> None:
        if (source := self._source()) is not None:
            source.bring(names)

    def dropped(self, names: Collection[str]) -> None:
        if (source := self._source()) is not None:
            source.let_go(names)

    def make_room(self) -> None:
        if (source := self._source()) is not None:
            source.make_room()


_Key = tuple[LoadOptions, frozenset[str] | None]
_sources: weakref.WeakValueDictionary[_Key, Source] = weakref.WeakValueDictionary()
_lock = threading.Lock()
_at_work = threading.RLock()
"""Held while a model computes."""


def source_of(options: LoadOptions, only: frozenset[str] | None = None) -> Source:
    """The source of these options: nodes that ask for the same share one."""
    _start_giving_back()
    with _lock:
        found = _sources.get((options, only))
    if found is None:
        # Not under the lock: a model may have to be downloaded first.
        made = Source(options, only)
        with _lock:
            found = _sources.setdefault((options, only), made)
    return found


def alone(source: Source, *parts: str) -> Source:
    """A source of the same model for some of its parts only, which is read if all of it is not in memory anyhow.

    They are what they are in the whole: with the precision and quantization that were decided for it.
    """
    decided = source.prepared.plan.options
    options = attrs.evolve(decided, evict="all", offload="none", vram=None, preset="none", compile_blocks=False)
    return source_of(options, frozenset(parts))


def unload_all() -> int:
    """Drops the weights of every model. Returns of how many."""
    return sum(source.unload() for source in list(_sources.values()))


GRACE = 2.0
"""Seconds, in which ComfyUI collects what a graph left."""

_gone: queue.SimpleQueue[None] = queue.SimpleQueue()
"""Gets something when a source goes: alone among queues it may be filled wherever a garbage collection happens."""


def _give_back_what_goes() -> None:
    while True:
        _gone.get()
        time.sleep(GRACE)
        while not _gone.empty():
            _gone.get()
        # Emptying a device's caches would make a picture wait that another thread is at; the next model does it then.
        if _at_work.acquire(blocking=False):
            try:
                give_back_memory()
            except Exception as error:  # noqa: BLE001 (this thread is the only one, and the next source goes to it too)
                log.warning("The memory of a model that went could not be given back: %s", error)
            finally:
                _at_work.release()


@functools.cache
def _start_giving_back() -> None:
    threading.Thread(target=_give_back_what_goes, name="dit360-memory", daemon=True).start()


def _make_room(coming: Source) -> None:
    """Drops models that another graph used, if this one, as it is stored, would not fit into memory beside them."""
    give_back_memory()
    needed = weights_on_disk(coming.prepared.folder, coming.only)
    for other in list(_sources.values()):
        droppable = other is not coming and other.in_memory and not other.at_work
        if droppable and free_memory("cpu") < needed:
            log.info(
                "%s is dropped from memory: %s needs %s there.",
                other.options.model, coming.options.model, gib(needed),
            )  # fmt: skip
            other.unload()


def weights_on_disk(folder: Path, only: Collection[str] | None = None) -> int:
    """Bytes of a model's weights as they are stored.

    only: of these parts; None: of all.
    """
    files = [file for file in folder.glob("*/*.safetensors") if only is None or file.parent.name in only]
    return sum(file.stat().st_size for file in files)
