"""The tensors of a part that come from a single file, under the names that the part has for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from dit360_core.errors import ModelError, one_line
from dit360_core.models.weights.forms.description import WeightsFile
from dit360_core.models.weights.forms.manifest import Manifest, state_of
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.models.weights.forms.packed import Packed, joined
from dit360_core.models.weights.forms.renaming import Rows


class FileTensors:
    """As :class:`~dit360_core.models.weights.tensors.Tensors`, of a file that a manifest names."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @functools.cached_property
    def _opened(self) -> WeightsFile:
        if state_of(self.manifest.file) != self.manifest.state:
            raise ModelError(f"{self.manifest.file} has changed since the model was loaded; load it anew.")
        return open_file(self.manifest.file, self.manifest.reader)

    @property
    def files(self) -> set[Path]:
        """The one."""
        return {self.manifest.file}

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.tensors

    def names(self) -> list[str]:
        """Of all tensors."""
        return list(self.manifest.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name → shape."""
        return {name: origin.shape for name, origin in self.manifest.tensors.items()}

    def forms(self) -> dict[str, str]:
        """name → what its numbers are stored as in the file."""
        return {name: origin.form for name, origin in self.manifest.tensors.items()}

    def all(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, turned back where it is packed."""
        for name in self.manifest.tensors:
            yield name, self.read(name, window=True)

    def read(self, name: str, *, window: bool = False) -> torch.Tensor:
        """One tensor, turned back to float32 where it is packed. Raises ModelError if it is not there.

        window: as in :meth:`Tensors.read`.
        """
        found = self.as_it_is(name)
        if isinstance(found, Packed):
            return found.dense(torch.float32)
        return found if window else found.clone()

    def packed(self, name: str) -> Packed | None:
        """A matrix in the fewer bits of the file; None if it is to be had in full only."""
        origin = self.manifest.tensors.get(name)
        if origin is None or origin.form not in self.manifest.packed or len(origin.shape) != 2:
            return None
        found = self.as_it_is(name)
        return found.kept() if isinstance(found, Packed) else None

    def as_it_is(self, name: str) -> torch.Tensor | Packed:
        """A tensor as the file has it."""
        if name not in self.manifest.tensors:
            raise ModelError(f"{self.manifest.file} lacks the tensor {name!r}; give another file.")
        recipe = self.manifest.tensors[name].recipe
        found = joined([self._rows(rows) for rows in recipe.rows])
        if recipe.shape is None or tuple(found.shape) == recipe.shape:
            return found
        dense = found.dense(torch.float32) if isinstance(found, Packed) else found
        if dense.numel() != math.prod(recipe.shape):
            raise ModelError(f"{self.manifest.file} has changed while it was used; load the model anew.")
        return dense.reshape(recipe.shape)

    def _rows(self, rows: Rows) -> torch.Tensor | Packed:
        try:
            whole = self._opened.read(rows.source)
        except (KeyboardInterrupt, MemoryError, ModelError):
            raise
        except BaseException as error:  # a plugin's, whatever it is
            raise ModelError(
                f"{self.manifest.file} cannot be read by {self.manifest.reader} ({one_line(error)}), at {rows.source}; "
                "download it again, or tell its author."
            ) from error
        if rows.end is None:
            return whole
        return whole.rows(rows.begin, rows.end) if isinstance(whole, Packed) else whole[rows.begin : rows.end]
