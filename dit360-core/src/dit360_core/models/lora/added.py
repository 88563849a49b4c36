"""LoRAs that are put beside a transformer that is loaded already, and taken away again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from dit360_core.errors import InputError, named, setting
from dit360_core.models.architecture import DENOISER, Architecture, Networks
from dit360_core.models.lora.beside import LoraBeside, Strength, put_beside
from dit360_core.models.lora.file import read
from dit360_core.models.lora.fitting import Lora, fitted
from dit360_core.models.weights.conversion import place

log = logging.getLogger("dit360")


@attrs.define(kw_only=True, eq=False)
class Added:
    """The LoRAs of one transformer beside what it was loaded with.

    networks: of its family.
    strengths: of each file.
    counts: of every file that was ever there, what metadata tell of it.
    """

    networks: Networks
    strengths: dict[Path, Strength] = attrs.field(factory=dict)
    counts: dict[Path, dict[str, int]] = attrs.field(factory=dict)

    def fits(self, wanted: Mapping[Path, float]) -> bool:
        """Whether only strengths differ from what is wanted."""
        return set(wanted) == set(self.strengths)

    def set_strengths(self, wanted: Mapping[Path, float]) -> None:
        """Costs nothing."""
        for file, strength in self.strengths.items():
            strength.value = wanted[file]

    def change(
        self, transformer: torch.nn.Module | None, config: Any, wanted: Mapping[Path, float], like: torch.Tensor
    ) -> None:
        """Puts beside a transformer what is wanted and not there, and takes away what is there and not wanted.

        transformer: None if it is not in memory now; see :meth:`onto`.
        config: of it.
        like: dtype and device of the factors.

        Raises ModelError, leaving everything as it was, for a file that is no LoRA of it.
        """
        bare = self.networks.bare_denoiser(config)
        new = {file: fitted_to(file, bare, self.networks.architecture) for file in wanted if file not in self.strengths}
        for file in new:
            self.strengths[file] = Strength(wanted[file])
        try:
            for file, lora in new.items():
                for remark in () if file in self.counts else lora.remarks:
                    log.warning("%s", remark)
                self.counts[file] = {"modules": lora.modules, "tensors_used": lora.used, "tensors": lora.tensors}
                counted = (file, lora.modules, lora.used, lora.tensors)
                log.info("lora: %s, %d modules, %d of its %d tensors, beside the weights", *counted)
                if transformer is not None:
                    put_beside(transformer, DENOISER, lora, self.strengths[file], like)
        except Exception:
            self._forget(transformer, new)
            raise
        self._forget(transformer, [file for file in self.strengths if file not in wanted])
        self.set_strengths(wanted)

    def onto(self, transformer: torch.nn.Module, config: Any, like: torch.Tensor) -> None:
        """Puts all of them beside a transformer that was read again."""
        bare = self.networks.bare_denoiser(config) if self.strengths else None
        for file, strength in self.strengths.items():
            assert bare is not None
            put_beside(transformer, DENOISER, fitted_to(file, bare, self.networks.architecture), strength, like)

    def _forget(self, transformer: torch.nn.Module | None, files: Any) -> None:
        gone = [self.strengths.pop(file) for file in list(files)]
        if transformer is not None and gone:
            _take_away(transformer, gone)


def beside_bytes(transformer: torch.nn.Module | None) -> int:
    """Of all LoRAs beside its weights."""
    if transformer is None:
        return 0
    kept = [layer for layer in transformer.modules() if isinstance(layer, LoraBeside)]
    return sum(factor.nbytes for layer in kept for factor in layer.parameters(recurse=False))


def fitted_to(file: Path, bare: torch.nn.Module, architecture: Architecture) -> Lora:
    """A LoRA that can be put beside a transformer that is loaded.

    bare: the transformer, which may be on the meta device.
    architecture: its family.

    Raises ModelError if that would not be all of it.
    """
    found = read(file, architecture)
    found.check_denoiser_only()
    lora = fitted(found, {DENOISER: bare})
    lora.check_beside()
    return lora


def check_addable(offload: str) -> None:
    """Raises InputError where the transformer's weights are in files, and its layers only stand for them."""
    if offload == "disk":
        raise InputError(
            f"A LoRA cannot be put beside a transformer that {setting('offload', 'disk')} keeps in files; load the "
            f"model with it ({named('lora')}), or with another offload."
        )


def _take_away(transformer: torch.nn.Module, gone: list[Strength]) -> None:
    # Those of several LoRAs hold each other, the last one outermost.
    while found := [
        (name, layer)
        for name, layer in transformer.named_modules()
        if isinstance(layer, LoraBeside) and any(layer.strength is strength for strength in gone)
    ]:
        outermost = [pair for pair in found if not any(pair[0].startswith(f"{other}.") for other, _ in found)]
        for name, layer in outermost:
            place(transformer, name, layer.base)
