"""A matrix in fewer bits as a file has it, and the layers that compute from it: it is turned back as it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch.nn.functional import linear as multiply

Decode = Callable[[tuple[torch.Tensor, ...], tuple[int, ...]], torch.Tensor]
"""(tensors, shape) → the numbers that are meant, in a floating-point dtype that loses none of their digits."""

AT_ONCE = {"cpu": 2**21, "else": 2**24}
"""Kind of device → numbers that are turned back at once: on a CPU as many as stay in its cache."""


@attrs.frozen(kw_only=True, eq=False)
class Packed:
    """A tensor in fewer bits.

    form: such as ``fp8`` or ``Q4_K``.
    shape: of the numbers that are meant; the rows come first.
    tensors: as they are stored, each with its rows first.
    decode: turns them back, whatever rows they are.
    """

    form: str
    shape: tuple[int, ...]
    tensors: tuple[torch.Tensor, ...]
    decode: Decode = attrs.field(repr=False)

    @property
    def nbytes(self) -> int:
        """That it holds."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it, turned back."""
        return self.decode(self.tensors, self.shape).to(dtype)

    def rows(self, begin: int, end: int) -> Packed:
        """Some of its rows."""
        some = tuple(tensor[begin:end] for tensor in self.tensors)
        return attrs.evolve(self, shape=(end - begin, *self.shape[1:]), tensors=some)

    def kept(self) -> Packed:
        """The same in memory of its own, apart from the file and from what else was read with it."""
        return attrs.evolve(self, tensors=tuple(tensor.clone() for tensor in self.tensors))


def joined(pieces: Sequence[Packed | torch.Tensor]) -> Packed | torch.Tensor:
    """Pieces of rows below each other; all are packed in the same form, or none is."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    if isinstance(first, Packed):
        packed = [piece for piece in pieces if isinstance(piece, Packed)]
        together = tuple(torch.cat(each) for each in zip(*(piece.tensors for piece in packed), strict=True))
        return attrs.evolve(
            first, shape=(sum(piece.shape[0] for piece in packed), *first.shape[1:]), tensors=together
        )  # fmt: skip
    return torch.cat([piece for piece in pieces if isinstance(piece, torch.Tensor)])


class PackedLayer(torch.nn.Module):
    """What layers of packed weights have in common. Nothing but the bits of the file is held."""

    weight = None
    """Whoever wants to know in what it computes is told by its input."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.form, self._shape, self._decode = packed.form, packed.shape, packed.decode
        self._kinds = tuple((tensor.dtype, tensor.shape[1:]) for tensor in packed.tensors)
        # As bytes: what PyTorch takes for floating point module.to(dtype) would turn into other numbers.
        for number, tensor in enumerate(packed.tensors):
            flat = tensor.contiguous().reshape(len(tensor), -1)
            self.register_buffer(f"stored_{number}", flat.view(torch.uint8))

    def _stored(self) -> tuple[torch.Tensor, ...]:
        bytes_: list[torch.Tensor] = [getattr(self, f"stored_{number}") for number in range(len(self._kinds))]
        return tuple(
            tensor.view(dtype).reshape(len(tensor), *rest)
            for tensor, (dtype, rest) in zip(bytes_, self._kinds, strict=True)
        )


class PackedLinear(PackedLayer):
    """``y = x · Wᵀ + b`` of a packed W ``(out, in)``, in the dtype of x."""

    def __init__(self, packed: Packed, bias: torch.Tensor | None) -> None:
        """bias: ``(out,)``."""
        super().__init__(packed)
        self.out_features, self.in_features = packed.shape
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Tensors and shapes alone: what is compiled makes no objects.
        stored, bias = self._stored(), None if self.bias is None else self.bias.to(x.dtype)
        rows = max(1, AT_ONCE.get(x.device.type, AT_ONCE["else"]) // self.in_features)
        if rows >= self.out_features:
            return multiply(x, self._decode(stored, self._shape).to(x.dtype), bias)
        out = x.new_empty(*x.shape[:-1], self.out_features)
        for begin in range(0, self.out_features, rows):
            end = min(begin + rows, self.out_features)
            some = tuple(tensor[begin:end] for tensor in stored)
            out[..., begin:end] = multiply(x, self._decode(some, (end - begin, self.in_features)).to(x.dtype))
        return out if bias is None else out.add_(bias)


class PackedEmbedding(PackedLayer):
    """The rows of a packed table ``(tokens, width)``, in the dtype that the rest computes in."""

    def __init__(self, packed: Packed, dtype: torch.dtype) -> None:
        super().__init__(packed)
        self.num_embeddings, self.embedding_dim = packed.shape
        self.dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        wanted, where = torch.unique(ids, return_inverse=True)
        some = tuple(tensor[wanted] for tensor in self._stored())
        rows = self._decode(some, (len(wanted), self.embedding_dim)).to(self.dtype)
        return rows[where]


def packed_layer(
    like: Any, packed: Packed, bias: torch.Tensor | None, dtype: torch.dtype
) -> PackedLinear | PackedEmbedding:
    """The layer of packed weights in the place of ``like``, a Linear or an Embedding on the meta device."""
    if isinstance(like, torch.nn.Embedding):
        return PackedEmbedding(packed, dtype)
    return PackedLinear(packed, bias)
