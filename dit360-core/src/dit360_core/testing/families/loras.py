"""LoRAs of a family under diffusers' names of its layers: fused, beside the weights, and of no strength."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from dit360_core.models.architecture import DENOISER
from dit360_core.models.lora.file import read
from dit360_core.models.weights.selection import linear_layers
from dit360_core.pipeline.pipeline import Pipeline
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
                assert found is not None, f"Architecture.target knows no layer called {prefix + name!r}"
                assert (found.part, found.modules) == (DENOISER, (name,)), (
                    f"Architecture.target takes {prefix + name!r} for {found.part}: {', '.join(found.modules)}"
                )
        assert family.target(_UNKNOWN) is None, f"Architecture.target takes {_UNKNOWN!r} for a layer"

    def test_fused_is_beside_and_no_strength_is_none(self) -> None:
        model, file = self.model(), str(self._file("lora.safetensors"))
        plain, fused = self._evaluated(model.load()), self._evaluated(model.load(lora=file, lora_mode="fuse"))
        pipeline = model.load(lora=file, lora_mode="adapter")
        beside = self._evaluated(pipeline)
        pipeline.set_lora_strength(0.0)
        none = self._evaluated(pipeline)
        assert off(fused, plain) > 1e-3, "a LoRA for every layer of the blocks changes nothing"
        within(off(beside, fused), 1e-4, "a LoRA beside the weights, against a fused one,")
        within(off(none, plain), 1e-6, "a LoRA of strength 0")

    def test_every_factor_reaches_its_layer(self) -> None:
        model, file = self.model(), self._file("lora.safetensors")
        fused, plain = (
            dict(pipeline.engine.denoiser.named_modules())
            for pipeline in (model.load(lora=str(file), lora_mode="fuse"), model.load())
        )
        for name, (down, up) in self._factors().items():
            added = fused[name].weight - plain[name].weight
            within(off(added, up @ down), 1e-3, f"what a fused LoRA adds to {name}")

    def test_names_that_nobody_knows_are_told(self) -> None:
        file = self._file("unknown.safetensors", more=_UNKNOWN)
        unread = [key for keys in read(file, self.model().architecture).unread.values() for key in keys]
        assert unread, f"a LoRA for {_UNKNOWN!r} is taken for one that fits"
        assert all(_UNKNOWN in key for key in unread), f"layers of the transformer are taken for nobody's: {unread}"

    # ----------------------------------------------------------------------------------------------------- inner parts

    def _evaluated(self, pipeline: Pipeline) -> torch.Tensor:
        model = self.model()
        return model.evaluate(pipeline.engine, model.noise(), model.grid())

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
