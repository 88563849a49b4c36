"""What a file of weights says of its tensors, before any of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    import torch

    from dit360_core.models.weights.forms.packed import Packed

PLAIN = ("F64", "F32", "F16", "BF16")
"""Forms whose numbers mean what they are."""


@attrs.frozen(kw_only=True)
class Described:
    """One tensor of a file.

    form: what its numbers are stored as: one of :data:`PLAIN`, or in fewer bits, such as ``fp8`` or ``Q4_K``.
    shape: of the numbers that are meant.
    bytes: in the file, with scales.
    known: whether its numbers mean something to whoever reads the file.
    """

    form: str
    shape: tuple[int, ...]
    bytes: int
    known: bool = True

    @property
    def packed(self) -> bool:
        """Whether it is stored in fewer bits, which are kept."""
        return self.known and self.form not in PLAIN


class WeightsFile(Protocol):
    """A file of weights that a form knows, opened: nothing but its header was read.

    file: where it is.
    tensors: name → what is told of it; scales and marks are parts of the tensors that they belong to.
    unused: name of a tensor that nothing here makes something of → what it is.
    metadata: what else its header says.
    """

    file: Path
    tensors: Mapping[str, Described]
    unused: Mapping[str, str]
    metadata: Mapping[str, str]

    def read(self, name: str) -> torch.Tensor | Packed:
        """A tensor, on the CPU: as it is, on the mapped file where that can be, or packed as the file has it."""
        ...
