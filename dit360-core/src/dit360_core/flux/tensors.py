"""The tensors of one part of a model folder, read one by one, so that the part itself need not fit into memory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from dit360_core.errors import ModelError
from dit360_core.flux.files import read_json

# diffusers' and transformers' own names.
_STEMS = ("diffusion_pytorch_model", "model")


class Tensors:
    """name → tensor, of the files that diffusers and transformers would read. Raises ModelError if there are none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = self._find()

    def _find(self) -> dict[str, Path]:
        for stem in _STEMS:
            index = self.folder / f"{stem}.safetensors.index.json"
            if index.is_file():
                return {name: self.folder / file for name, file in read_json(index)["weight_map"].items()}
            single = self.folder / f"{stem}.safetensors"
            if single.is_file():
                with safe_open(single, framework="pt") as opened:
                    return dict.fromkeys(opened.keys(), single)
        raise ModelError(
            f"{self.folder} has neither {_STEMS[0]}.safetensors nor {_STEMS[1]}.safetensors; download the whole model."
        )

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self, prefix: str = "") -> list[str]:
        return [name for name in self._files if name.startswith(prefix)]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """name → (number of elements, bytes of one), from the headers of the files alone."""
        found = {}
        for file in sorted(set(self._files.values())):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not iterable itself)
                    part = opened.get_slice(name)
                    number = 1
                    for side in part.get_shape():
                        number *= side
                    found[name] = (number, _BYTES.get(part.get_dtype(), 4))
        return {name: size for name, size in found.items() if name in self._files}

    def read(self, name: str, *, window: bool = False) -> torch.Tensor:
        """One tensor, on the CPU. Raises ModelError if it is not there.

        window: it may be one on the mapped file, which stays mapped as long as it lives; writing to it changes no file.
        """
        if name not in self._files:
            raise ModelError(f"{self.folder} lacks the tensor {name!r}, or holds another model's; download it again.")
        # Opened anew each time: what a mapping has shown stays in memory until it is closed.
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor if window else tensor.clone()


_BYTES = {"F64": 8, "I64": 8, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
