"""Weights in fewer bits, in files, in blocks, dropped and read again; and what a plan says of their bytes."""

from __future__ import annotations

import unittest
from fnmatch import fnmatchcase
from typing import Any

import torch

from dit360_core.models.architecture import DENOISER
from dit360_core.models.residency.placement import displace, place
from dit360_core.models.shapes.shapes import Shapes
from dit360_core.models.weights.bytes import tensor_bytes
from dit360_core.models.weights.files import ModelFiles
from dit360_core.models.weights.selection import Policy, linear_layers, select_layers
from dit360_core.pipeline.quantizing import quantize
from dit360_core.sphere.grid import Grid
from dit360_core.testing.families.base import FamilyTests
from dit360_core.testing.families.model import off
from dit360_core.testing.saying import within

BYTES, ACTIVATIONS = 0.01, 0.1
INT8, PICTURE = 1.0, 3.0
"""In standard deviations, at most anywhere: layers of sixteen channels round more than a model's do, and a layer that
is wrong is as far off as another prompt, or not finite."""


class WeightTests(FamilyTests):
    """Of a policy, and of all that becomes of weights.

    wide: pixels of a picture whose activations are measured.
    """

    wide: tuple[int, int] = (512, 256)

    # ------------------------------------------------------------------------------------------------------- quantized

    def test_every_layer_that_a_policy_names_is_there(self) -> None:
        for part, module, policy in self._policies():
            names = linear_layers(module)
            for pattern in (*policy.left, *policy.one_token):
                assert any(fnmatchcase(name, pattern) for name in names), (
                    f"Networks.policy names {pattern!r}, and no Linear layer of {part} is called so"
                )
            for pattern, why in policy.left.items():
                assert len(why.split()) > 2, f"Networks.policy leaves {pattern!r} of {part} for no reason: {why!r}"
            assert select_layers(module, policy).layers

    def test_layers_of_one_token_see_one_token(self) -> None:
        model = self.model()
        engine = model.load().engine
        selection = select_layers(engine.denoiser, engine.networks.policy(DENOISER))
        seen: dict[str, int] = {}

        def counting(name: str) -> Any:
            def look(module: Any, given: Any, made: torch.Tensor) -> None:
                seen[name] = max(seen.get(name, 0), made.numel() // made.shape[-1])

            return look

        modules = dict(engine.denoiser.named_modules())
        hooks = [modules[name].register_forward_hook(counting(name)) for name in selection.layers]
        try:
            model.evaluate(engine, model.noise(), model.grid())
        finally:
            for hook in hooks:
                hook.remove()
        for name, one in selection.layers.items():
            tokens = seen.get(name, 0)
            assert tokens, f"{name} is quantized, and nothing passes through it"
            assert (tokens == 1) == one, (
                f"{name} sees {tokens} tokens of a picture; "
                + ("take it out of" if one else "put it into")
                + " one_token of Networks.policy"
            )

    def test_a_file_under_the_makers_names_holds_the_transformer(self) -> None:
        """Which is read back before it gets its name: what a family writes and what it reads are one."""
        model, file = self.model(), self.model().place / "written.safetensors"
        if not file.exists():
            how: Any = {"quantization_mode": "none", "precision": "fp32", "device": "cpu"}
            quantize(str(model.folder), file, registry=model.registry, **how)
        if model.architecture.replaceable.get("transformer") != DENOISER:
            return  # it was read back, and no option takes it
        found, right = (
            {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)}
            for module in (
                getattr(model.load(transformer=str(file)).engine.pipe, DENOISER),
                model.load().engine.denoiser,
            )
        )
        wrong = [name for name, tensor in right.items() if not torch.equal(found[name], tensor)]
        assert not wrong, f"{wrong[0]} of a written file is another; look at Architecture.originals and target"

    def test_stored_in_int8_it_paints_nearly_the_same(self) -> None:
        model, folder = self.model(), self.model().place / "int8"
        if not folder.exists():
            how: Any = {"quantization_mode": "int8", "quantization_parts": "both", "precision": "fp32", "device": "cpu"}
            quantize(str(model.folder), folder, registry=model.registry, **how)
        pipeline = model.load(folder)
        engine = pipeline.engine
        for part, module, policy in self._policies():
            left = set(linear_layers(getattr(engine.pipe, part))) & set(select_layers(module, policy).layers)
            assert not left, f"{len(left)} layers of {part} are left in full precision, such as {min(left)}"
        found = model.evaluate(engine, model.noise(), model.grid())
        right = model.evaluate(model.load().engine, model.noise(), model.grid())
        within(off(found, right), INT8, "the velocity in int8", "look at Networks.as_used")
        within(off(model.paint(pipeline), model.paint(model.load())), PICTURE, "latents of the model in int8")

    # ----------------------------------------------------------------------------------------- somewhere else meanwhile

    def test_dropped_parts_come_back(self) -> None:
        model = self.model()
        pipeline = model.load(evict="all")
        within(off(model.paint(pipeline), model.paint(model.load())), 1e-5, "latents with evict=all,")
        assert getattr(pipeline.engine.pipe, DENOISER) is None, "evict=all leaves the transformer in memory"

    def test_blocks_that_come_and_go_leave_the_numbers(self) -> None:
        model = self.model()
        pipeline, family = model.load(), model.architecture
        right = model.paint(model.load())
        for offload in ("text", "group"):
            place(pipeline.engine.pipe, family, offload, torch.device("cpu"))
            try:
                found = off(model.paint(pipeline), right)
            finally:
                displace(pipeline.engine.pipe, family)
            within(found, 1e-5, f"latents with offload={offload},", "look at Part.blocks and Part.streamed")
        within(off(model.paint(model.load(offload="disk")), right), 1e-5, "latents with offload=disk,")

    # --------------------------------------------------------------------------------------------------------- planned

    def test_weights_weigh_what_is_planned(self) -> None:
        model = self.model()
        pipe = model.load().engine.pipe
        for name in model.architecture.names:
            module = getattr(pipe, name)
            planned = Shapes.of_pipeline(model.architecture, pipe).weights(name, torch.float32).total
            from_files = self._shapes().weights(name, torch.float32).total
            held = tensor_bytes(module)
            for what, told in (("as it is loaded", planned), ("by its configuration", from_files)):
                assert abs(told - held) <= BYTES * held, (
                    f"{name} holds {held} bytes, and {told} are planned {what}; let Networks.empty build what is loaded"
                )

    def test_an_evaluation_takes_what_is_planned(self) -> None:
        model = self.model()
        engine, grid = model.load().engine, Grid.of_picture(*self.wide, 1)
        x = model.noise(grid)
        measured = _most_at_once(lambda: model.evaluate(engine, x, grid, attend=_nothing))
        planned = self._shapes().step(
            torch.float32, grid.tokens, self._text(), stores_scores=False, slice_size=0, quantized=None, size=int
        )
        assert abs(planned.peak - measured) <= ACTIVATIONS * measured, (
            f"an evaluation of {grid.tokens} tokens takes {measured} bytes, and {planned.peak} are planned; look at "
            "Networks.denoise"
        )

    def test_reading_a_prompt_takes_what_is_planned(self) -> None:
        model = self.model()
        engine, family = model.load().engine, model.architecture
        length = family.prompt_tokens(model.folder)
        measured = _most_at_once(lambda: engine.embed(length * f"{self.prompt}, ", length))
        shapes = self._shapes()
        planned = max(shapes.text(part, torch.float32, length, None, int).peak for part in family.encoders)
        # So small a text encoder takes little beside masks and scores, of which kernels store all, some or none.
        assert measured / 2 <= planned <= 20 * measured, (
            f"reading a prompt takes {measured} bytes, and {planned} are planned; look at Networks.read_text"
        )

    # ----------------------------------------------------------------------------------------------------- inner parts

    def _policies(self) -> list[tuple[str, torch.nn.Module, Policy]]:
        engine = self.model().load().engine
        parts = [part.name for part in engine.architecture.parts if part.option]
        assert DENOISER in parts, "the transformer is never quantized: give its Part an option"
        return [(part, getattr(engine.pipe, part), engine.networks.policy(part)) for part in parts]

    def _shapes(self) -> Shapes:
        model = self.model()
        files = ModelFiles(model.folder)
        return Shapes.of_files(model.architecture, files)


def _nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
    """A kernel that takes no memory but its result's: what a real one takes is its own matter."""
    return torch.zeros_like(q)


def _most_at_once(run: Any) -> int:
    """Bytes that PyTorch's allocator gives at once while something runs."""
    from torch.profiler import ProfilerActivity, kineto_available, profile

    if not kineto_available():
        raise unittest.SkipTest("this PyTorch cannot measure what its allocator gives")
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events: Any = profiled.profiler
    now = most = 0
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
