"""What was computed of a picture that takes hours, in a file, so that a run that was stopped goes on from there.

The model's answers to the solver's questions are kept in the order in which they were given. A later run asks the same
questions and is given these answers, and computes only what is not there: solvers that remember earlier steps, and
those that draw noise, come to the very same numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy
import torch

from dit360_core.errors import Dit360Error, InputError
from dit360_core.pipeline.state_file import DRAWN, MARK, RECORD, alone, check_same, head_end, header_of, records
from dit360_core.plugins.offers import FlowModel
from dit360_core.system.atomic import check_name


class Journal:
    """The file of one run: the latents that it begins with, and the model's answers, all in float32."""

    def __init__(self, path: Path, opened: IO[bytes], drawn: Mapping[str, Any]) -> None:
        self.path, self._opened = path, opened
        self.drawn = drawn
        """What was drawn when the run began."""
        self._records: list[tuple[int, int]] = []

    @property
    def answers(self) -> int:
        """How many are there."""
        return max(0, len(self._records) - 1)

    # -------------------------------------------------------------------------------------------------------- tensors

    def latents(self, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Those that the run begins with; None: they are not there yet.

        shape: of them.
        """
        return self._read(0, shape) if self._records else None

    def keep_latents(self, latents: torch.Tensor) -> None:
        """The first that is kept."""
        if not self._records:
            self._append(latents)

    def answer(self, number: int, like: torch.Tensor) -> torch.Tensor | None:
        """The model's answer to a question; None: it was not given yet.

        number: of the question, from 0 on.
        like: a tensor of its shape, dtype and device.
        """
        if number >= self.answers:
            return None
        return self._read(number + 1, tuple(like.shape)).to(like)

    def keep_answer(self, answer: torch.Tensor) -> None:
        """The next. It is on the disk when this returns."""
        self._append(answer)

    def _append(self, tensor: torch.Tensor) -> None:
        data = tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
        try:
            self._opened.seek(0, os.SEEK_END)
            at = self._opened.tell()
            self._opened.write(RECORD.pack(len(data), zlib.crc32(data)))
            self._opened.write(data)
            self._opened.flush()
            os.fsync(self._opened.fileno())
        except OSError as error:
            raise Dit360Error(
                f"Cannot write {self.path}: {error.strerror or error}; make room, and run the same again: it goes on "
                "from there."
            ) from error
        self._records.append((at + RECORD.size, len(data)))

    def _read(self, number: int, shape: tuple[int, ...]) -> torch.Tensor:
        at, size = self._records[number]
        if size != 4 * math.prod(shape):
            raise InputError(f"{self.path} holds the state of another run; delete it, or name another output.")
        self._opened.seek(at)
        flat = numpy.frombuffer(bytearray(self._opened.read(size)), numpy.float32)
        return torch.from_numpy(flat).view(shape)

    def find(self) -> None:
        """Looks for what is there. What was being written when a run was stopped is cut off."""
        end = head_end(self._opened)
        for at, size in records(self._opened):
            self._records.append((at, size))
            end = at + size
        self._opened.truncate(end)


@contextlib.contextmanager
def journal(path: Path, told: Mapping[str, Any], drawn: Mapping[str, Any], *, keep: bool = False) -> Iterator[Journal]:
    """The file of a run, which is removed when the block ends well and stays when it does not.

    told: all that decides about the numbers, in JSON.
    drawn: what was drawn for this run; of one that goes on, what was drawn when it began counts.
    keep: the file in any case: whoever asked removes it, once the picture is saved.

    Raises InputError for a file of another run, or one that another program is writing.
    """
    check_name(path)
    told = json.loads(json.dumps(told, default=str))
    try:
        opened = path.open("r+b" if path.exists() else "x+b")
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}; choose another folder for the output."
        ) from error
    with opened:
        alone(path, opened)
        before = header_of(path, opened)
        found = Journal(path, opened, drawn if before is None else before[DRAWN])
        if before is not None:
            found.find()
            if found.answers:
                check_same(path, before["told"], told)
        if before is None or (not found.answers and before["told"] != told):  # with no answer nothing is lost
            opened.seek(0)
            opened.truncate()
            opened.write(MARK + json.dumps({"told": told, DRAWN: dict(drawn)}).encode() + b"\n")
            opened.flush()
            found = Journal(path, opened, drawn)
        yield found
    if not keep:
        path.unlink(missing_ok=True)


def check_room(path: Path, answers: int, size: int) -> None:
    """Raises InputError if the disk does not hold the state of a run.

    answers: that it will have.
    size: bytes of one.
    """
    there = path.stat().st_size if path.exists() else 0
    need, free = answers * size - there, shutil.disk_usage(path.absolute().parent).free
    if need > free:
        raise InputError(
            f"The state of this run takes {need / 2**30:.1f} GiB beside the output, and {free / 2**30:.1f} GiB are "
            "free there; make room, or name an output elsewhere."
        )


class Recorded:
    """The model asked again: what it has answered before is read, and what it has not is kept."""

    def __init__(self, model: FlowModel, journal: Journal) -> None:
        self._model, self._journal = model, journal
        self._asked = self.replayed = 0

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        number, self._asked = self._asked, self._asked + 1
        found = self._journal.answer(number, x)
        if found is not None:
            self.replayed += 1
            return found
        found = self._model(x, sigma)
        self._journal.keep_answer(found)
        return found
