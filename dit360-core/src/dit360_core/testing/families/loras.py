"""LoRAs of a family under the names that diffusers has for its layers: fused, beside the weights, and at no strength."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from dit360_core.errors import Dit360Error
from dit360_core.models.architecture import DENOISER
from dit360_core.models.weights.selection import linear_layers
from dit360_core.testing.families.base import FamilyTests
from dit360_core.testing.families.model import off
from dit360_core.testing.saying import within

RANK = 4
_UNKNOWN = "nobodys_blocks.7.nobodys_layer"


class LoraTests(FamilyTests):
    """Of ``Architecture.target``."""

    def test_every_layer_of_a_block_is_a_target_under_its_own_name(self) -> None:
        family = self.model().architecture
        for name in self._layers():
            for prefix in ("transformer.", ""):
                found = family.target(prefix + name)
                assert found is not None, f"Architecture.target knows no {prefix + name!r}"
                assert (found.part, found.modules) == (DENOISER, (name,)), (
                    f"Architecture.target takes {prefix + name!r} for {found.part}: {', '.join(found.modules)}"
                )
        assert family.target(_UNKNOWN) is None, f"Architecture.target takes {_UNKNOWN!r} for a layer"

    def test_fused_is_beside_and_no_strength_is_none(self) -> None:
        model, file = self.model(), self._file("lora.safetensors")
        plain, fused, beside, none, nothing = (
            model.evaluate(model.load(**how).engine, model.noise(), model.grid())
            for how in (
                {},
                {"lora": str(file), "lora_mode": "fuse"},
                {"lora": str(file), "lora_mode": "adapter"},
                {"lora": str(file), "lora_mode": "fuse", "lora_strength": 0.0},
                {"lora": str(file), "lora_mode": "adapter", "lora_strength": 0.0},
            )
        )
        assert off(fused, plain) > 1e-3, "a LoRA for every layer of the blocks changes nothing"
        within(off(beside, fused), 1e-4, "a LoRA beside the weights, against a fused one,")
        within(off(none, plain), 0.0, "a LoRA of strength 0, fused,")
        within(off(nothing, plain), 1e-6, "a LoRA of strength 0, beside the weights,")

    def test_every_factor_reaches_its_layer(self) -> None:
        model, file = self.model(), self._file("lora.safetensors")
        fused, plain = (
            dict(model.load(**how).engine.denoiser.named_modules())
            for how in ({"lora": str(file), "lora_mode": "fuse"}, {})
        )
        for name, (down, up) in self._factors().items():
            added = fused[name].weight - plain[name].weight
            within(off(added, up @ down), 1e-3, f"what a fused LoRA adds to {name}")

    def test_names_that_nobody_knows_are_told(self) -> None:
        model = self.model()
        file = self._file("unknown.safetensors", more=_UNKNOWN)
        heard = _Heard()
        logger = logging.getLogger("dit360")
        logger.addHandler(heard)
        try:
            state = model.load(lora=str(file), lora_mode="fuse").state
        except Dit360Error as error:
            heard.said.append(str(error))
        else:
            heard.said.append(str(state.loras_as_dicts()))
        finally:
            logger.removeHandler(heard)
        assert any("nobodys" in said for said in heard.said), f"a layer that nobody knows is not told: {heard.said}"

    # ----------------------------------------------------------------------------------------------------- inner parts

    def _layers(self) -> dict[str, torch.nn.Linear]:
        """The Linear layers of the denoiser's blocks."""
        family, denoiser = self.model().architecture, self.model().load().engine.denoiser
        inside = tuple(f"{name}." for name in family.part(DENOISER).blocks)
        return {name: denoiser.get_submodule(name) for name in linear_layers(denoiser) if name.startswith(inside)}

    def _factors(self) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(3)

        def factor(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * 0.1

        return {
            name: (factor(RANK, layer.in_features), factor(layer.out_features, RANK))
            for name, layer in self._layers().items()
        }

    def _file(self, name: str, more: str = "") -> Path:
        tensors = {}
        for layer, (down, up) in self._factors().items():
            tensors[f"transformer.{layer}.lora_A.weight"] = down
            tensors[f"transformer.{layer}.lora_B.weight"] = up
        if more:
            tensors[f"transformer.{more}.lora_A.weight"] = torch.ones(RANK, 8)
            tensors[f"transformer.{more}.lora_B.weight"] = torch.ones(8, RANK)
        file = self.model().place / name
        save_file(tensors, file)
        return file


class _Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
