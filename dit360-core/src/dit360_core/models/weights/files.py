"""Files and folders that a user names: whether they are there, and are what they are taken for."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path

from dit360_core.errors import ModelError
from dit360_core.models.weights.headers import PICKLED, refuse_pickle

STORED = "quantization.json"
"""In the folder of a part that is stored quantized."""


class ModelFiles:
    """A model's folder. A temporary one is removed when nobody holds this object any more."""

    def __init__(self, folder: Path, *, temporary: bool = False, notes: Sequence[str] = ()) -> None:
        """notes: what is odd about the parts in it, in sentences."""
        self.folder = folder
        self.notes = tuple(notes)
        self.beneath: object = None
        """What must live as long as this does."""
        # Also at the end of the process.
        self._finalizer = weakref.finalize(self, _remove, folder, os.getpid()) if temporary else None

    def remove(self) -> None:
        """Removes a temporary folder now."""
        if self._finalizer is not None:
            self._finalizer()


def _remove(folder: Path, process: int) -> None:
    # A fork has the object too, and not the folder. Links are removed, never what they lead to.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_single_file(path: Path) -> None:
    """Raises ModelError for a file where a folder belongs, and for a path that is not there."""
    if path.is_file():
        refuse_pickle(path)
        raise ModelError(f"{path} is a single file; give the diffusers folder of the model (with model_index.json).")
    if not path.is_dir():
        raise ModelError(f"There is no folder {path}; give a diffusers folder, a Hub id, or a known model name.")


def find_lora_file(path: Path) -> Path:
    """The LoRA file meant by a path: itself, or the one in a folder. Raises ModelError if there is none or several."""
    if path.is_file():
        refuse_pickle(path)
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{path} is no safetensors file; give the LoRA's .safetensors file or its folder.")
        return path
    if not path.is_dir():
        raise ModelError(f"There is no LoRA {path}; give a safetensors file, a folder, or a Hub id (owner/name).")
    for usual in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (path / usual).is_file():
            return path / usual
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{path} holds {len(found)} safetensors files; name one of them, such as {found[0].name}.")
    for pickled in sorted(p for p in path.iterdir() if p.suffix.lower() in PICKLED):
        refuse_pickle(pickled)
    raise ModelError(f"{path} holds no safetensors file; give the folder with the LoRA's weights.")
