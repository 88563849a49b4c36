"""What is the same in the networks of every family whose parts diffusers and transformers have."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from dit360_core.errors import ModelError, first_line
from dit360_core.models.architecture import Networks
from dit360_core.models.weights.quiet import quiet

with quiet():  # diffusers is loud when it is imported
    from accelerate import init_empty_weights
    from huggingface_hub.errors import StrictDataclassError
    from transformers.initialization import no_init_weights

_WRONG = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ArithmeticError, IndexError,
    StrictDataclassError,
)  # fmt: skip
"""What the libraries raise for configurations that they cannot build."""


class DiffusersNetworks(Networks):
    """Parts that are made of configurations whose keys are known."""

    denoiser_class: ClassVar[Any]
    """Of diffusers."""

    @abc.abstractmethod
    def made(self, part: str, config: Mapping[str, Any]) -> Any:
        """A part of its configuration; what it raises for one that it cannot build is told as the folder's fault.

        config: as :meth:`Architecture.read_config` gives it.
        """

    def empty(self, part: str, folder: Path) -> torch.nn.Module:
        """The libraries are given the keys that dit360 knows and nothing else of the folder."""
        config = self.architecture.read_config(part, folder)
        with quiet():
            try:
                # Drawing numbers that nothing holds would take as long as all the rest.
                with init_empty_weights(), no_init_weights():
                    made = self.made(part, config)
            except _WRONG as error:
                raise ModelError(
                    f"{folder / 'config.json'} describes no {part} that can be made ({first_line(error)}); get it "
                    "again."
                ) from error
        return made.eval()  # type: ignore[no-any-return]

    def bare_denoiser(self, config: Mapping[str, Any]) -> torch.nn.Module:
        with quiet(), init_empty_weights():
            described = {key: value for key, value in dict(config).items() if key != "quantization_config"}
            return self.denoiser_class.from_config(described)  # type: ignore[no-any-return]

    def as_used(self, part: str, name: str, module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        return module

    def compile(self, denoiser: Any) -> None:
        """Blocks are alike, so that one is compiled for all of a kind."""
        denoiser.compile_repeated_blocks(fullgraph=True)
