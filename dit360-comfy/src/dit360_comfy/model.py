"""A model as the nodes hand it on: read when it is first used, dropped when its memory is wanted, read again."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from dit360_core.loading import prepare
from dit360_core.memory import free_memory, gib
from dit360_core.options import LoadOptions
from dit360_core.pipeline import Pipeline
from dit360_core.reading import Prepared
from dit360_core.registry import default_registry

from dit360_comfy import host

log = logging.getLogger("dit360")


class Source:
    """One set of load options, and its pipeline while that is in memory. Made by :func:`source_of`."""

    def __init__(self, options: LoadOptions) -> None:
        """Raises what loading would raise, but for the weights themselves, which are not read yet."""
        self.options = options
        self._prepared: Prepared | None = prepare(options, registry=default_registry())
        self._pipeline: Pipeline | None = None
        self._device = host.SharedDevice()
        self._lock = threading.RLock()
        # ComfyUI drops it with the results of a graph, and knows nothing of what the C library then keeps.
        weakref.finalize(self, _give_back_soon).atexit = False

    @property
    def prepared(self) -> Prepared:
        """Its files and backends, found and checked."""
        if self._prepared is None:
            self._prepared = prepare(self.options, registry=default_registry())
        return self._prepared

    @property
    def in_memory(self) -> bool:
        return self._pipeline is not None

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline at work: nobody else uses it meanwhile, ComfyUI can stop it, and its memory is ComfyUI's."""
        with self._lock, host.plain_mode():
            pipeline = self._loaded()
            with pipeline.interruptible(host.check_interrupt):
                yield pipeline

    def _loaded(self) -> Pipeline:
        if self._pipeline is None:
            _make_room(self)
            with_host = attrs.evolve(self.prepared, host=_Host(self))
            self._pipeline = with_host.load()
        return self._pipeline

    def bring(self, names: Collection[str]) -> None:
        """Has ComfyUI make room for parts, and put them on the device unless the core offloads them."""
        pipeline = self._pipeline
        assert pipeline is not None, "a part is used before its pipeline is there"
        offload = pipeline.engine.residency.offload
        parts = {name: getattr(pipeline.engine.pipe, name, None) for name in names}
        self._device.use(parts, pipeline.engine.device, managed=offload == "none")

    def let_go(self, names: Collection[str]) -> None:
        """Of parts that are to be freed."""
        self._device.forget(names)

    def expect(self, phase: str, **options: Any) -> None:
        """Tells ComfyUI what the next stage takes beside the weights. phase: as a prediction has it (text encoding,
        step, decode). options: of the picture, for Pipeline.predict."""
        pipeline = self._pipeline
        if pipeline is not None and pipeline.plan.device != "cpu":
            self._device.working = int(pipeline.predict(**options).phase(phase).working)

    def unload(self) -> bool:
        """Drops the weights. They are read again when they are next used. Returns whether there were any."""
        with self._lock:
            if self._pipeline is None:
                return False
            self._device.forget()
            self._pipeline = None
        host.give_back_memory()
        return True


class _Host:
    """What the core tells of a source's parts.

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


_sources: weakref.WeakValueDictionary[LoadOptions, Source] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def source_of(options: LoadOptions) -> Source:
    """The source of these options: nodes that ask for the same share one."""
    with _lock:
        found = _sources.get(options)
        if found is None:
            found = _sources[options] = Source(options)
        return found


def unload_all() -> int:
    """Drops the weights of every model. Returns of how many."""
    return sum(source.unload() for source in list(_sources.values()))


GRACE = 2.0
"""Seconds, in which ComfyUI collects what a graph left."""


def _give_back_soon() -> None:
    timer = threading.Timer(GRACE, host.give_back_memory)
    timer.daemon = True
    timer.start()


def _make_room(coming: Source) -> None:
    """Drops models that another graph used, if this one would not fit into system memory beside them."""
    needed = weights_on_disk(coming.prepared.folder)
    for other in list(_sources.values()):
        if other is not coming and other.in_memory and free_memory("cpu") < needed:
            log.info(
                "%s is dropped from memory: %s needs %s there.",
                other.options.model, coming.options.model, gib(needed),
            )  # fmt: skip
            other.unload()


def weights_on_disk(folder: Path) -> int:
    """Bytes of a model's weights as they are stored."""
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
