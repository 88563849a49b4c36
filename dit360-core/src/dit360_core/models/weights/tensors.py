"""The tensors of one part of a model folder, read one by one, so that the part itself need not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dit360_core.errors import ModelError
from dit360_core.models.weights.headers import header, tensor_files


class Tensors:
    """name → tensor, of the files that diffusers and transformers would read, or of the only variant there is.

    Raises ModelError if there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = tensor_files(folder)

    @property
    def files(self) -> set[Path]:
        """Those that hold the tensors."""
        return set(self._files.values())

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        """Of all tensors."""
        return list(self._files)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name → shape, from the headers of the files alone."""
        found: dict[str, tuple[int, ...]] = {}
        for file in sorted(self.files):
            with opened(file) as file_:
                found |= {name: tuple(file_.get_slice(name).get_shape()) for name in file_.keys()}  # noqa: SIM118
        return {name: shape for name, shape in found.items() if self._files.get(name)}

    def forms(self) -> dict[str, str]:
        """name → what its numbers are stored as, in safetensors' words."""
        found: dict[str, str] = {}
        for file in sorted(self.files):
            found |= {name: entry.dtype for name, entry in header(file).items() if self._files.get(name) == file}
        return found

    def all(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, file by file, on the mapped files: see ``window`` of :meth:`read`."""
        for file in sorted(self.files):
            with opened(file) as file_:
                for name in file_.keys():  # noqa: SIM118
                    if self._files.get(name) == file:
                        yield name, file_.get_tensor(name)

    def read(self, name: str, *, window: bool = False) -> torch.Tensor:
        """One tensor, on the CPU. Raises ModelError if it is not there.

        window: it may be one on the mapped file, which stays mapped as long as it lives; writing to it changes no file.
        """
        if name not in self._files:
            raise ModelError(f"{self.folder} lacks the tensor {name!r}, or holds another model's; download it again.")
        # Opened anew each time: what a mapping has shown stays in memory until it is closed.
        with opened(self._files[name]) as file_:
            tensor: torch.Tensor = file_.get_tensor(name)
        return tensor if window else tensor.clone()


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file. Raises ModelError for one that is damaged, in this block too."""
    try:
        with safe_open(file, framework="pt") as file_:
            yield file_
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged, or its index is another's ({error}); download it again.") from error
