"""What ComfyUI asks of those who work in it: progress, interruption, its folders.

Beside :mod:`dit360_comfy.device` the only module of the pipeline's nodes that imports ComfyUI, and only when a node
runs. Without ComfyUI nobody interrupts and nothing is shown, so that the nodes run in any Python.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit360_core.system.memory import gib
from dit360_core.system.progress import telling

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

log = logging.getLogger("dit360")


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


@contextmanager
def slow_things_shown() -> Iterator[None]:
    """In this block the node's bar shows what is downloaded and read, and ComfyUI's button for it stops that."""
    bar: Any = None
    of = "", 0

    def told(doing: str, done: int, total: int) -> None:
        nonlocal bar, of
        check_interrupt()
        if not in_comfyui():
            return
        if (doing, total) != of:
            import comfy.utils

            bar, of = comfy.utils.ProgressBar(total), (doing, total)
            log.info("%s, %s.", doing, gib(total))
        bar.update_absolute(done, total)

    with telling(told):
        yield


def shows_previews() -> bool:
    """Whether somebody wants to see pictures form: ComfyUI's --preview-method."""
    if not in_comfyui():
        return False
    from comfy.cli_args import LatentPreviewMethod, args

    return args.preview_method != LatentPreviewMethod.NoPreviews  # type: ignore[no-any-return]


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


_DEEPEST = 6


def weights(*kinds: str) -> tuple[str, ...]:
    """The files of weights of some of ComfyUI's kinds, in any form that dit360 reads, as ``kind/name``."""
    if not in_comfyui():
        return ()
    import folder_paths
    from dit360_core.plugins.registry import default_registry

    endings = tuple(each for entry in default_registry().entries("format") for each in entry.offer.suffixes)
    found: dict[str, None] = {}
    for kind in kinds:
        for root in folder_paths.folder_names_and_paths.get(kind, ([], ()))[0]:
            # Links to other disks are followed, as in ComfyUI's own lists.
            for at, inside, names in os.walk(root, followlinks=True):
                inside[:] = sorted(inside) if len(Path(at).relative_to(root).parts) < _DEEPEST else []
                for name in sorted(name for name in names if name.lower().endswith(endings)):
                    found[f"{kind}/{(Path(at) / name).relative_to(root).as_posix()}"] = None
    return tuple(found)


def weights_file(name: str) -> str:
    """The full path of a file that :func:`weights` lists; anything else stays as it is."""
    if not in_comfyui():
        return name
    import folder_paths

    kind, _, rest = name.partition("/")
    for root in folder_paths.folder_names_and_paths.get(kind, ([], ()))[0]:
        if (Path(root) / rest).is_file():
            return str(Path(root) / rest)
    return name


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
