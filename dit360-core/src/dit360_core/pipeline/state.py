"""What the stages of one pipeline share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from dit360_core.models.residency.offloads import BY_BLOCKS
from dit360_core.options import DecodeOptions, SampleOptions
from dit360_core.planning.forecast import Subject, chosen_setup, held_before
from dit360_core.planning.kernels import Kernels
from dit360_core.planning.plan import Plan
from dit360_core.planning.prediction import Prediction, predict
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine
from dit360_core.system.memory import used_memory

if TYPE_CHECKING:
    import torch

    from dit360_core.models.flux.engine import Engine
    from dit360_core.models.lora.added import Added
    from dit360_core.models.shapes.shapes import Shapes


@attrs.define(kw_only=True, eq=False)
class Loaded:
    """A model in memory, and what was decided about it, which changes where memory runs out.

    make_shapes: the model's shapes, made when they are first needed. given_up: what was done when memory ran out.
    added: LoRAs beside the one that it was loaded with.
    """

    engine: Engine
    plan: Plan
    registry: Registry
    machine: Machine
    kernels: Kernels
    make_shapes: Callable[[], Shapes]
    given_up: list[str] = attrs.field(factory=list)
    added: Added = attrs.field()
    _shapes: Shapes | None = None

    @added.default
    def _none_added(self) -> Added:
        from dit360_core.models.lora.added import Added

        return Added()

    def like_factors(self, transformer: torch.nn.Module | None) -> torch.Tensor:
        """An empty tensor of the dtype of factors, on the device of the weights beside them: they move together."""
        import torch

        weights: Any = iter(()) if transformer is None else transformer.parameters()
        resting = next((tensor.device for tensor in weights), self.engine.device)
        return torch.empty(0, dtype=self.engine.dtype, device=resting)

    def subject(self, sampling: SampleOptions, decoding: DecodeOptions) -> Subject:
        """This model, and a picture that is to be made with it."""
        if self._shapes is None:
            self._shapes = self.make_shapes()
        shapes, plan = self._shapes, self.plan
        from dit360_core.models.lora.added import beside_bytes

        bits = {}
        for part in plan.quantized:
            weights = sum(shapes.weights_of_layer(part.part, layer.name) for layer in part.layers)
            bits[part.part] = 8 * part.bytes / weights if weights else 16.0
        own = sampling.attention_backend not in ("pipeline", "auto")
        name = sampling.attention_backend if own else plan.attention.address
        return Subject(
            shapes=shapes, model=plan.model, machine=self.machine, precision=plan.precision, registry=self.registry,
            sampling=sampling, decoding=decoding, attention=self.registry.find("attention", name)[0],
            lora=bool(plan.loras), stored=bits, quantizer=plan.quantization.address, held=self._held(),
            beside=beside_bytes(self.engine.pipe.transformer),
        )  # fmt: skip

    def predict(self, sampling: SampleOptions, decoding: DecodeOptions) -> Prediction:
        """What a picture takes, with the model as it is loaded now."""
        from dit360_core.options import budget_of

        subject = self.subject(sampling, decoding)
        budget = budget_of(self.plan.options.vram) if self.plan.options.vram is not None else None
        options = attrs.evolve(
            self.plan.options,
            offload=self.plan.offload,
            attention_slice_size=self.plan.attention_slice_size,
            quantization_mode=self.plan.quantization.used,
        )
        return predict(subject.shapes, chosen_setup(subject, options, budget), subject.held)

    def _held(self) -> int:
        if self.plan.device != "cpu":
            return held_before(self.plan.device)
        # The weights are among what the process holds already.
        return max(0, used_memory("cpu") - self.weights_here())

    def weights_here(self) -> int:
        """Bytes of the parts that are in memory now; blocks in files leave placeholders that take none."""
        from dit360_core.models.weights.bytes import held_bytes

        away = BY_BLOCKS["disk"] if self.plan.offload == "disk" else ()
        parts: dict[str, Any] = self.engine.pipe.components
        return sum(held_bytes(part) for name, part in parts.items() if hasattr(part, "parameters") and name not in away)
