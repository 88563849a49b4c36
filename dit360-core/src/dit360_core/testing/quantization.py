"""The contract of a quantizer, as tests that a plugin's author inherits."""

from __future__ import annotations

import itertools
import tempfile
import unittest
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dit360_core.errors import Reason
from dit360_core.models.flux.small import quantizable, run, small_transformer
from dit360_core.models.weights.bytes import tensor_bytes
from dit360_core.models.weights.conversion import FusedLora, convert, quantize_module, trial_tokens
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.entries import Entry
from dit360_core.plugins.offers import QuantizationNeed, Quantizer, QuantizerImplementation
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.testing.offering import MACHINES, OfferConformance
from dit360_core.testing.saying import same, shaped, within
from dit360_core.testing.storage import PeakStorage

_SLACK = 1.1
"""Scales of small layers are a greater share of them than of FLUX's."""


class QuantizerConformance(OfferConformance):
    """Inherit, name the plugin's module and its offer, and let pytest run it::

        class TestMine(QuantizerConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_quantizers()))

    A quantizer that this machine cannot run is left out with its reason; a dtype that it refuses is, too.
    """

    kind = Quantizer

    def machine(self) -> Machine:
        """Where it is tried."""
        return Machine.detect()

    # ------------------------------------------------------------------------------------------------------ tests

    def test_the_offer_says_what_it_costs(self) -> None:
        offer = self.offer()
        assert 0 < offer.bits < 16, (
            f"bits is {offer.bits:g}, but must be what it stores for each weight, scales included, over 0 and under 16"
        )
        assert 0 < offer.error < 1, (
            f"error is {offer.error:g}, but must be the share by which a transformer's output may differ, 0 … 1"
        )

    def test_unsupported_answers_for_any_machine_and_allocates_nothing(self) -> None:
        offer = self.offer()
        dtypes, offloads = ("fp32", "bf16", "fp16"), ("none", "model", "sequential")
        for machine, dtype, offload in itertools.product(MACHINES, dtypes, offloads):
            with PeakStorage() as storage:
                need = QuantizationNeed(device=machine.device, dtype=dtype, offload=offload)
                reasons = list(offer.unsupported(machine, need))
            assert storage.peak == 0, f"unsupported makes tensors of {storage.peak} bytes, and none may be made"
            wrong = [reason for reason in reasons if not (isinstance(reason, Reason) and reason.sentence)]
            assert not wrong, f"unsupported answers {wrong[0]!r:.60} where a Reason with a sentence belongs"

    def test_layers_are_really_smaller(self) -> None:
        """By the tensors that the layer holds and by those that are saved, not by what it says."""
        for linear, quantizer in self._layers():
            bias = linear.bias.nbytes if linear.bias is not None else 0
            allowed = _SLACK * self.offer().bits / 8 * linear.weight.numel() + bias + 4096
            module, layer = self._converted(linear, quantizer)
            assert layer.bytes <= allowed, f"{layer.bytes} bytes saved, {allowed:.0f} claimed"
            held = tensor_bytes(module)
            assert held <= allowed, f"{held} bytes held, {allowed:.0f} claimed"
            # Tensors that PyTorch does not know of are neither moved to a device nor counted nor saved.
            least = self.offer().bits / 8 * linear.weight.numel() / 2
            assert layer.bytes >= least, f"{layer.bytes} bytes saved: the weights are no parameters or buffers of it"

    def test_a_transformer_is_as_right_as_claimed(self) -> None:
        for dtype, quantizer in self._dtypes():
            plain, quantized = self._transformer(dtype), self._transformer(dtype)
            quantize_module(quantized, quantizer, quantizable(quantized), part="transformer")
            right, found = (run(each) for each in (plain, quantized))
            error = float((found.double() - right.double()).norm() / right.double().norm())
            within(error, self.offer().error, "the output, as a share and against what it claims,", dtype)

    def test_nothing_is_left_in_full_precision(self) -> None:
        for dtype, quantizer in self._dtypes():
            module, plain = self._transformer(dtype), self._transformer(dtype)
            selection = quantizable(module)
            done = quantize_module(module, quantizer, selection, part="transformer")
            left = sorted(set(selection.layers) - {layer.name for layer in done.layers})
            assert not left, f"{len(left)} of {len(selection.layers)} layers are left as they were, such as {left[0]}"
            for name in selection.layers:
                layer = module.get_submodule(name)
                assert type(layer) is not torch.nn.Linear, f"{name} is still a plain Linear"
                full = 2 * plain.get_submodule(name).weight.numel()
                held = tensor_bytes(layer)
                assert held < full, f"{name} holds {held} bytes, and {full} are those of bf16"

    def test_one_token_and_many_any_shape_any_strides(self) -> None:
        """As FLUX calls it: modulations ``(1, in)``, tokens ``(1, n, in)``, slices and transposes of larger tensors."""
        for linear, quantizer in self._layers():
            width, dtype, device = linear.in_features, linear.weight.dtype, linear.weight.device
            reference = _copy(linear)
            for one_token in (False, True):
                module, _ = self._converted(_copy(linear), quantizer, one_token=one_token)
                wide = trial_tokens(2 * width, dtype, device)
                for x in (
                    trial_tokens(width, dtype, device)[:1],
                    trial_tokens(width, dtype, device)[None],
                    wide[None, :, :width],
                    wide[:, ::2],
                    trial_tokens(width, dtype, device).T.contiguous().T,
                    trial_tokens(width, dtype, device).repeat(150, 1)[None],
                ):
                    with torch.no_grad():
                        right, found = reference(x), module(x)
                    about = f"{tuple(x.shape)} with strides {x.stride()}"
                    shaped(found, right, "the result", about)
                    error = float((found.double() - right.double()).norm() / right.double().norm())
                    within(error, 0.25, "the result, as a share,", about)

    def test_twice_is_the_same(self) -> None:
        for linear, quantizer in self._layers():
            (first, _), (second, _) = (self._converted(_copy(linear), quantizer) for _ in range(2))
            states = [module.state_dict() for module in (first, second)]
            names = [list(state) for state in states]
            assert names[0] == names[1], f"the same weights become {names[0]} and then {names[1]}"
            for name, first_ in states[0].items():
                same(states[1][name], first_, f"{name} of the same weights again")
            x = trial_tokens(linear.in_features, linear.weight.dtype, linear.weight.device)
            with torch.no_grad():
                outputs = [module(x) for module in (first, first, second)]
            for what, other in zip(("called again", "made again"), outputs[1:], strict=True):
                same(other, outputs[0], f"the result of a layer that is {what}")

    def test_saved_and_restored_it_is_the_same(self) -> None:
        """After it has been used as well: a kernel that packs its weights has to know the way back."""
        if not any(hasattr(quantizer, "restore") for _, quantizer in self._dtypes()):
            raise unittest.SkipTest("it has no restore, so its models cannot be saved")
        for linear, quantizer in self._layers():
            for one_token in (False, True):
                module, _ = self._converted(_copy(linear), quantizer, one_token=one_token)
                x = trial_tokens(linear.in_features, linear.weight.dtype, linear.weight.device)
                with torch.no_grad():
                    right = module(x)
                restored = self._through_a_file(module, linear, quantizer, one_token)
                again = self._through_a_file(restored, linear, quantizer, one_token)
                with torch.no_grad():
                    same(restored(x), right, "the result of what was saved and restored")
                    same(again(x), right, "the result of what was saved and restored twice")

    def test_a_lora_that_was_fused_is_still_there(self) -> None:
        for linear, quantizer in self._layers():
            x = trial_tokens(linear.in_features, linear.weight.dtype, linear.weight.device)
            generator = torch.Generator().manual_seed(3)
            down = torch.randn(4, linear.in_features, generator=generator) * linear.in_features**-0.5
            up = torch.randn(linear.out_features, 4, generator=generator) * 0.5
            down, up = down.to(linear.weight), up.to(linear.weight)
            fused = _copy(linear)
            fused.weight.data += up @ down

            def effect(x: torch.Tensor, down: torch.Tensor = down, up: torch.Tensor = up) -> torch.Tensor:
                return (x @ down.T) @ up.T

            with torch.no_grad():
                without = self._converted(_copy(linear), quantizer)[0](x)
                module, layer = self._converted(fused, quantizer, lora=FusedLora(effect, without))
                assert not torch.equal(module(x), without), "the LoRA has no effect"
            assert layer.lora_kept is not None, "nothing is told of the LoRA"
            assert 0.8 < layer.lora_kept < 1.2, f"{layer.lora_kept:.0%} of the LoRA is left, and 80 … 120 % are allowed"

    # ---------------------------------------------------------------------------------------------------- helpers

    def _dtypes(self) -> list[tuple[torch.dtype, QuantizerImplementation]]:
        """Every dtype that it supports here, with a quantizer of its own."""
        found: list[tuple[torch.dtype, QuantizerImplementation]] = []
        refused: list[Reason] = []
        machine = self.machine()
        for dtype in ("fp32", "bf16", "fp16"):
            if dtype == "fp16" and machine.device == "cpu":
                continue  # nobody computes so on a CPU, and its convolutions cannot
            why = judge(self._entry(), machine, QuantizationNeed(device=machine.device, dtype=dtype))
            refused += why
            if not why:
                found.append((torch_dtype(dtype), self.offer().load()))
        if not found:
            raise unittest.SkipTest("; ".join(dict.fromkeys(str(reason) for reason in refused)))
        return found

    def _layers(self) -> Iterable[tuple[torch.nn.Linear, QuantizerImplementation]]:
        """Layers of several shapes, with a bias and without, with an outlier among the weights."""
        for dtype, quantizer in self._dtypes():
            for inside, outside, bias in ((256, 768, True), (768, 256, True), (128, 128, False)):
                generator = torch.Generator().manual_seed(inside)
                linear = torch.nn.Linear(inside, outside, bias=bias).requires_grad_(False)
                linear.weight.copy_(torch.randn(outside, inside, generator=generator) * inside**-0.5)
                linear.weight[3, 5] = 1.0
                if bias:
                    linear.bias.copy_(torch.randn(outside, generator=generator))
                yield linear.to(self.machine().device, dtype), quantizer

    def _transformer(self, dtype: torch.dtype) -> Any:
        return small_transformer(dtype).to(self.machine().device)

    def _converted(self, linear: torch.nn.Linear, quantizer: QuantizerImplementation, **about: Any) -> tuple[Any, Any]:
        return convert(linear, quantizer, name="tried", **{"one_token": False, **about})

    def _through_a_file(
        self, module: torch.nn.Module, linear: torch.nn.Linear, quantizer: Any, one_token: bool
    ) -> torch.nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "layer.safetensors"
            save_file({name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}, file)
            tensors = {name: tensor.to(linear.weight.device) for name, tensor in load_file(file).items()}
        like = torch.nn.Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device="meta",
            dtype=linear.weight.dtype,
        )
        restored: torch.nn.Module = quantizer.restore(like, tensors, one_token=one_token)
        return restored.eval().requires_grad_(False)

    def _entry(self) -> Entry:
        return Entry(kind="quantization", offer=self.offer(), distribution="tried", version="0")


def _copy(linear: torch.nn.Linear) -> torch.nn.Linear:
    made = torch.nn.Linear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    ).requires_grad_(False)
    made.load_state_dict(linear.state_dict())
    return made
