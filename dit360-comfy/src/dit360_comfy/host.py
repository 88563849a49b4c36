"""What ComfyUI asks of those who work in it: progress, interruption, memory that is shared, its folders.

The only module of the pipeline's nodes that imports ComfyUI, and only when a node runs. Without ComfyUI nobody
interrupts and nobody else wants the memory, so that the nodes run in any Python.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@contextmanager
def plain_mode() -> Iterator[None]:
    """ComfyUI runs every graph in inference mode, of whose tensors a model that outlives the graph must hold none."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of another node as one that may be changed here: fp32, on the CPU."""
    import torch

    return tensor.detach().to("cpu", torch.float32).clone()


def check_interrupt() -> None:
    """Raises ComfyUI's own exception if somebody pressed its button for that."""
    if not in_comfyui():
        return
    import comfy.model_management as management

    management.throw_exception_if_processing_interrupted()


class Progress:
    """The bar of the node that is running, with a picture above it."""

    def __init__(self, steps: int) -> None:
        self._bar: Any = None
        if in_comfyui():
            import comfy.utils

            self._bar = comfy.utils.ProgressBar(max(1, steps))

    def done(self, steps: int, of: int, preview: Image | None = None) -> None:
        """Steps that are done, of all, and the picture as it is expected by then."""
        if self._bar is None:
            return
        from comfy.cli_args import args

        shown = None if preview is None else ("JPEG", preview, args.preview_size)
        self._bar.update_absolute(steps, max(1, of), shown)


def shows_previews() -> bool:
    """Whether somebody wants to see pictures form: ComfyUI's --preview-method."""
    if not in_comfyui():
        return False
    from comfy.cli_args import LatentPreviewMethod, args

    return args.preview_method != LatentPreviewMethod.NoPreviews  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------ memory


class SharedDevice:
    """The parts of one pipeline, as ComfyUI knows models: it puts them on the device, and away for those of others."""

    def __init__(self) -> None:
        self.working = 0
        self._patchers: dict[str, Any] = {}

    def use(self, parts: Mapping[str, Any], device: torch.device, managed: bool) -> None:
        """Parts are about to be used. managed: by ComfyUI; the core itself moves those that are offloaded.

        ``working`` is what the stage takes beside the weights, in bytes.
        """
        if not in_comfyui():
            for part in parts.values():
                if managed and part is not None:
                    part.to(device)
            return
        import comfy.model_management as management

        if not managed:
            # From here on the core moves them itself, and ComfyUI must not.
            self.forget(parts, move=False)
            if device.type != "cpu":
                management.free_memory(self.working, device)
            return
        patchers = [self._patcher(name, part, device) for name, part in parts.items() if part is not None]
        management.load_models_gpu(patchers, memory_required=self.working, force_full_load=True)

    def _patcher(self, name: str, part: Any, device: torch.device) -> Any:
        import comfy.model_management as management
        import comfy.model_patcher

        known = self._patchers.get(name)
        if known is None or known.model.part is not part:
            away = management.unet_offload_device() if device.type != "cpu" else device
            known = self._patchers[name] = comfy.model_patcher.ModelPatcher(_shell(part), device, away)
        return known

    def forget(self, names: Collection[str] | None = None, *, move: bool = True) -> None:
        """Before parts are dropped: takes them off ComfyUI's list. None: all. move: off the device, too."""
        gone = [self._patchers.pop(name) for name in list(self._patchers) if names is None or name in names]
        if not gone:
            return
        import comfy.model_management as management

        mine = [id(patcher) for patcher in gone]
        for loaded in list(management.current_loaded_models):
            if id(loaded.model) in mine:
                if move:
                    loaded.model_unload()
                management.current_loaded_models.remove(loaded)


def _shell(part: Any) -> Any:
    """A part in a module of its own: ComfyUI writes attributes such as ``device``, which are diffusers' properties."""
    import torch

    # ComfyUI's log tells what it loads by the name of the class.
    shell: Any = type(f"DiT360{type(part).__name__}", (torch.nn.Module,), {})()
    shell.part = part
    return shell


def give_back_memory() -> None:
    """Collects what nobody holds any more, and gives it back to the device and to the system."""
    import gc

    from dit360_core.memory import give_back_freed_memory

    gc.collect()
    if in_comfyui():
        import comfy.model_management as management

        management.soft_empty_cache()
    give_back_freed_memory("cpu")


def device() -> torch.device:
    """Where ComfyUI computes; without it, where the core would."""
    if not in_comfyui():
        import torch
        from dit360_core.machine import Machine

        return torch.device(Machine.detect().device)
    import comfy.model_management as management

    return management.get_torch_device()  # type: ignore[no-any-return]


def device_room(on: torch.device) -> int:
    """Bytes of the device's memory that a graph may take, whatever models are there now: ComfyUI moves those away."""
    import comfy.model_management as management

    return int(management.get_total_memory(on) - management.extra_reserved_memory())


# ----------------------------------------------------------------------------------------------------------- folders

MODELS = "dit360"
"""Folder under ComfyUI's models for diffusers folders."""


def register_folders() -> None:
    """Makes ComfyUI know models/dit360, without making the folder."""
    import folder_paths

    folder_paths.add_model_folder_path(MODELS, str(Path(folder_paths.models_dir) / MODELS))


def model_folders() -> dict[str, Path]:
    """Diffusers folders in ComfyUI's models/dit360 and models/diffusers, by what drop-downs call them."""
    if not in_comfyui():
        return {}
    import folder_paths

    found: dict[str, Path] = {}
    for kind in (MODELS, "diffusers"):
        for root in folder_paths.folder_names_and_paths.get(kind, ([], ()))[0]:
            for index in sorted(Path(root).glob("*/model_index.json")):
                found.setdefault(f"{kind}/{index.parent.name}", index.parent)
    return found


def files(kind: str) -> tuple[str, ...]:
    """The files of one of ComfyUI's kinds (vae, text_encoders, loras), as its own drop-downs name them."""
    if not in_comfyui():
        return ()
    import folder_paths

    names = folder_paths.get_filename_list(kind) if kind in folder_paths.folder_names_and_paths else []
    return tuple(name for name in names if name.endswith(".safetensors"))


def file_of(kind: str, name: str) -> str:
    """The full path of a file that a drop-down names; anything else stays as it is."""
    if not in_comfyui():
        return name
    import folder_paths

    found = folder_paths.get_full_path(kind, name) if kind in folder_paths.folder_names_and_paths else None
    return found or name


def in_comfyui() -> bool:
    """Whether this runs in ComfyUI."""
    return "folder_paths" in sys.modules


def unload_others() -> None:
    """Moves the models of all nodes off the device."""
    if in_comfyui():
        import comfy.model_management as management

        management.unload_all_models()
