"""What is written into a file of weights, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    import torch

    from dit360_core.models.weights.forms.packed import Packed


@attrs.frozen(kw_only=True, eq=False)
class Outgoing:
    """One tensor of a file that is to be written.

    name: in the file.
    shape: of its numbers.
    form: what it is stored as, one of those that the writer has, or one of ``PLAIN``.
    read: gives its numbers, in any floating-point dtype, on the CPU; asked once, when it is written.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    read: Callable[[], torch.Tensor]


@attrs.frozen(kw_only=True)
class About:
    """What a file is, for its header.

    family, part: names of the architecture and the part.
    form: that most of it is stored in.
    metadata: key → text, for whoever reads the file.
    """

    family: str
    part: str
    form: str
    metadata: Mapping[str, str]


class WeightsWriter(Protocol):
    """Writes files of one form of weights."""

    def form_for(self, form: str, shape: tuple[int, ...]) -> str:
        """The form of a matrix where ``form`` is wanted: another one if its rows do not fit.

        form: one of those that are offered.
        shape: ``(rows, columns)``.
        """
        ...

    def bytes_of(self, form: str, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor in a form, with its scales.

        form: one of those that are offered, or of ``PLAIN``.
        shape: of the tensor.
        """
        ...

    def write(self, file: Path, tensors: Sequence[Outgoing], about: About) -> Iterator[torch.Tensor | Packed]:
        """Writes a file, and yields each tensor as it is now stored, in order, before the next is read.

        file: of a temporary name, which is to be replaced.
        tensors: in the order in which they are read.
        about: what the header says.

        It keeps no tensor that it has yielded. It may also have a method ``notes(about)``: sentences about a file that
        somebody should know. Raises OSError where the disk is full.
        """
        ...
