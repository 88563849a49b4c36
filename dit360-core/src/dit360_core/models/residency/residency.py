"""Parts that are dropped after use and read from their files again when they are needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection
from typing import Any, Protocol

import attrs
import torch

from dit360_core.models.architecture import Architecture
from dit360_core.models.residency.placement import displace, place_part
from dit360_core.system.memory import explain_full_memory, give_back_freed_memory


class Host(Protocol):
    """A program that shares the device among its models."""

    def use(self, names: Collection[str]) -> None:
        """Parts are about to be used: it puts those on the device that the core does not move itself."""

    def dropped(self, names: Collection[str]) -> None:
        """Parts are to be freed: it lets go of them."""

    def make_room(self) -> None:
        """Memory ran out: it moves whatever else there is off the device."""


def _unreadable(name: str) -> Any:
    raise AssertionError(f"nothing evicts the {name} of a pipeline that came without files")


@attrs.define(kw_only=True, eq=False)
class Residency:
    """Which parts of one pipeline come and go.

    architecture: the family.
    device, offload: as in :func:`dit360_core.models.residency.placement.place`.
    evict: as in :class:`~dit360_core.options.LoadOptions`.
    read: gives a part by its name, on the CPU or where it rests.
    foreign: somebody else offloaded the pipeline, so that nothing here may.
    host: who shares the device, if anybody does.
    kept: parts that stay all the same once they were read.
    """

    architecture: Architecture = attrs.field(repr=False)
    device: torch.device
    evict: str = "none"
    offload: str = "none"
    read: Callable[[str], Any] = _unreadable
    foreign: bool = False
    host: Host | None = None
    kept: frozenset[str] = frozenset()

    @property
    def can_read(self) -> bool:
        """Whether there are files to read parts from."""
        return self.read is not _unreadable

    def bring(self, pipe: Any, *names: str) -> None:
        """Reads what is not there. Raises OutOfMemory if it does not fit beside what is."""
        for name in names:
            if name in self.architecture.evicted(self.evict) and getattr(pipe, name, None) is None:
                with explain_full_memory(f"reading the {self.architecture.part(name).words} again", self.device.type):
                    pipe.register_modules(**{name: self.read(name)})
                    try:
                        self._place(pipe, name)
                    except Exception:
                        # Or it would be taken for one that is where it belongs.
                        pipe.register_modules(**{name: None})
                        raise
        if self.host is not None:
            self.host.use(names)

    def _place(self, pipe: Any, name: str) -> None:
        if self.host is not None:
            self.host.use((name,))  # makes room, or puts it on the device itself
        if self.host is None or self.architecture.moved_by_the_core(self.offload, name):
            # Not "model", whose hooks chain the parts that were there at first; alone on the device, it fits.
            place_part(self.architecture, name, getattr(pipe, name), self.offload, self.device)

    def displace(self, pipe: Any) -> None:
        """Brings all weights to the CPU, free of any offloading, to be placed anew."""
        displace(pipe, self.architecture)
        if self.host is not None:
            self.host.dropped(self.architecture.names)

    def drop(self, pipe: Any, keep: Collection[str] = ()) -> None:
        """Lets go of every part that is to be evicted.

        keep: those that are in use.
        """
        stay = {*keep, *self.kept}
        gone = [
            name
            for name in self.architecture.evicted(self.evict)
            if name not in stay and getattr(pipe, name, None) is not None
        ]
        if gone:
            pipe.register_modules(**dict.fromkeys(gone))
            if self.host is not None:
                self.host.dropped(gone)
            # diffusers' hooks, which every cache context makes, and their modules hold each other.
            gc.collect()
            give_back_freed_memory(self.device.type)
