"""The device that ComfyUI shares among the models of all nodes, and memory that goes back."""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from dit360_core.system.memory import give_back_freed_memory

from dit360_comfy.host import in_comfyui

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """Where ComfyUI computes; without it, where the core would."""
    if not in_comfyui():
        import torch
        from dit360_core.system.machine import Machine

        return torch.device(Machine.detect().device)
    import comfy.model_management as management

    return management.get_torch_device()  # type: ignore[no-any-return]


def indexed(ours: torch.device) -> torch.device:
    """The core's device as ComfyUI calls it: ``cuda`` there has a number, without which it would be another device."""
    theirs = device()
    return theirs if theirs.type == ours.type else ours


def device_room(on: torch.device) -> int:
    """Bytes of a CUDA device that a graph may take: what is free, and what ComfyUI's models hold and would give up.

    In steps of half a gibibyte, so that the same graph asks for the same again.
    """
    import comfy.model_management as management
    import torch

    free, _ = torch.cuda.mem_get_info(on)
    room = free + torch.cuda.memory_reserved(on) - management.extra_reserved_memory()
    return max(0, int(room // 2**29 * 2**29))


class SharedDevice:
    """The parts of one pipeline, as ComfyUI knows models: it puts them on the device, and away for those of others.

    working: bytes that the next stage takes beside the weights. weights: those that it has on the device at a time.
    """

    def __init__(self) -> None:
        self.working = 0
        self.weights = 0
        self._patchers: dict[str, Any] = {}

    def use(self, ours: Mapping[str, Any], core_s: Collection[str], on: torch.device) -> None:
        """Parts are about to be used.

        ours: those that ComfyUI puts on the device.
        core_s: those that the core moves itself, for which ComfyUI only makes room.
        """
        if not in_comfyui():
            for part in ours.values():
                part.to(on)
            return
        import comfy.model_management as management

        on = indexed(on)
        if core_s:
            # From here on the core moves them itself, and ComfyUI must not.
            self.forget(core_s)
            if on.type != "cpu":
                management.free_memory(self.weights + self.working, on)
        if ours:
            patchers = [self._patcher(name, part, on) for name, part in ours.items()]
            management.load_models_gpu(patchers, memory_required=self.working, force_full_load=True)

    def make_room(self, on: torch.device) -> None:
        """Memory ran out: the models of all other nodes are moved away."""
        if in_comfyui() and on.type != "cpu":
            import comfy.model_management as management

            mine = {id(patcher) for patcher in self._patchers.values()}
            kept = [loaded for loaded in management.current_loaded_models if id(loaded.model) in mine]
            management.free_memory(1e30, indexed(on), keep_loaded=kept)

    def _patcher(self, name: str, part: Any, on: torch.device) -> Any:
        import comfy.model_management as management
        import comfy.model_patcher

        known = self._patchers.get(name)
        if known is None or known.model.part is not part:
            away = management.unet_offload_device() if on.type != "cpu" else on
            known = self._patchers[name] = comfy.model_patcher.ModelPatcher(_shell(part), on, away)
        return known

    def forget(self, names: Collection[str] | None = None) -> None:
        """Takes parts off ComfyUI's list, where they are; None: all. What is to be dropped need not be moved first."""
        gone = [self._patchers.pop(name) for name in list(self._patchers) if names is None or name in names]
        if not gone:
            return
        import comfy.model_management as management

        mine = {id(patcher) for patcher in gone}
        found = [loaded for loaded in management.current_loaded_models if id(loaded.model) in mine]
        for loaded in found:
            if loaded.model_finalizer is not None:
                loaded.model_finalizer.detach()
        left = {id(loaded) for loaded in found}
        management.current_loaded_models[:] = [x for x in management.current_loaded_models if id(x) not in left]


def _shell(part: Any) -> Any:
    """A part in a module of its own: ComfyUI writes attributes such as ``device``, which are diffusers' properties."""
    import torch

    # ComfyUI's log tells what it loads by the name of the class.
    shell: Any = type(f"DiT360{type(part).__name__}", (torch.nn.Module,), {})()
    shell.part = part
    return shell


def give_back_memory() -> None:
    """Collects what nobody holds any more, and gives it back to the device, to the system, and of what was pinned."""
    gc.collect()
    if in_comfyui():
        import comfy.model_management as management

        management.soft_empty_cache()
    for kind in {"cpu", device().type}:
        give_back_freed_memory(kind)


def unload_others() -> None:
    """Moves the models of all nodes off the device."""
    if in_comfyui():
        import comfy.model_management as management

        management.unload_all_models()
