"""A Linear layer becomes a quantized one, tried on the spot, and counted."""

from __future__ import annotations

import copy
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch.nn.functional import linear as multiply

from dit360_core.errors import Dit360Error, named, setting
from dit360_core.models.weights.bytes import tensor_bytes
from dit360_core.models.weights.selection import Selection
from dit360_core.plugins.offers import QuantizerImplementation
from dit360_core.system.memory import is_out_of_memory

WRONG = 0.5
"""Relative error of a layer from which on it is no quantization but a defect."""


class NotQuantized(Dit360Error):
    """A layer that became none of fewer bits.

    why: half a sentence without advice, for a sentence of another's.
    """

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why[:1].upper()}{why[1:]}; {advice}.")
        self.why = why


# ---------------------------------------------------------------------------------------------------------- report


@attrs.frozen(kw_only=True)
class Layer:
    """One quantized layer.

    kernel: the class that computes it. Bytes include its bias.

    error: of its output for random tokens with outliers, relative (root mean square), the bias not counted; None if
    nobody measured it.
    lora_kept: the share of a fused LoRA's effect that rounding leaves, about 1; None: no LoRA.
    """

    name: str
    kernel: str
    one_token: bool
    bytes_before: int
    bytes: int
    error: float | None
    lora_kept: float | None = None


@attrs.frozen
class Errors:
    """Relative errors of layers: the median, the greatest, and whose that is."""

    median: float
    most: float
    layer: str


@attrs.frozen(kw_only=True)
class Converted:
    """What became of one part of a model.

    left: layer → why it stayed as it was.
    file: that has the layers so, and what reads it; empty: they were quantized here.
    given_as: option with which the file is given that the part was written into; empty: there is none.
    """

    part: str
    layers: tuple[Layer, ...]
    left: Mapping[str, str]
    file: str = ""
    given_as: str = ""

    @property
    def bytes_before(self) -> int:
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def kernels(self) -> dict[str, int]:
        """Kernel → how many layers it computes."""
        return dict(Counter(layer.kernel for layer in self.layers))

    @property
    def errors(self) -> Errors | None:
        """How far its layers are off; None if that was not measured."""
        measured = {layer.name: layer.error for layer in self.layers if layer.error is not None}
        if not measured:
            return None
        worst = max(measured, key=lambda name: measured[name])
        return Errors(statistics.median(measured.values()), measured[worst], worst)

    def sentence(self) -> str:
        """One line for the log."""
        kernels = ", ".join(f"{count} {kernel}" for kernel, count in self.kernels.items())
        if self.file:
            return (
                f"{self.part}: {len(self.layers)} layers stay as in {self.file} ({kernels}); "
                f"{megabytes(self.bytes)} instead of {megabytes(self.bytes_before)}"
            )
        return (
            f"{self.part}: {len(self.layers)} layers quantized ({kernels}), {len(self.left)} left; "
            f"{megabytes(self.bytes_before)} → {megabytes(self.bytes)}; {self._errors_in_words()}"
        )

    def _errors_in_words(self) -> str:
        off = self.errors
        if off is None:
            return "error of the layers not measured"
        return f"error of a layer {off.median:.1%} (median), {off.most:.1%} at most ({off.layer})"

    def as_dict(self) -> dict[str, Any]:
        """For metadata: the layers counted, not listed."""
        reasons = Counter(self.left.values())
        return {
            "layers": len(self.layers),
            **({"file": self.file} if self.file else {}),
            "kernels": self.kernels,
            "left": dict(reasons),
            "bytes_before": self.bytes_before,
            "bytes": self.bytes,
            "error_median": round(self.errors.median, 5) if self.errors else None,
            "error_worst": round(self.errors.most, 5) if self.errors else None,
            "worst_layer": self.errors.layer if self.errors else None,
        }


def megabytes(bytes_: int) -> str:
    """In MiB, or GiB where they are many."""
    return f"{bytes_ / 2**30:.2f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.1f} MiB"


# ------------------------------------------------------------------------------------------------------ conversion


@attrs.frozen(eq=False)
class FusedLora:
    """A LoRA that was fused into a layer: what it adds to an output, and the output of the quantized layer without it
    for :func:`trial_tokens`."""

    effect: Callable[[torch.Tensor], torch.Tensor]
    without: torch.Tensor


def quantized_output(
    linear: torch.nn.Linear, implementation: QuantizerImplementation, *, one_token: bool
) -> torch.Tensor:
    """What a layer, which stays as it is, would give for :func:`trial_tokens` if it were quantized."""
    x = trial_tokens(linear.in_features, linear.weight.dtype, linear.weight.device)
    with torch.no_grad():
        module = implementation.quantize(copy.deepcopy(linear), one_token=one_token).eval()
        return module(x)  # type: ignore[no-any-return]


def convert(
    linear: torch.nn.Linear,
    implementation: QuantizerImplementation,
    *,
    name: str,
    one_token: bool,
    lora: FusedLora | None = None,
) -> tuple[torch.nn.Module, Layer]:
    """A quantized layer in the place of ``linear``, compared with it on random tokens.

    Raises Dit360Error if it cannot be made, is not smaller, or computes something else.
    """
    x = trial_tokens(linear.in_features, linear.weight.dtype, linear.weight.device)
    with torch.no_grad():
        right = multiply(x, linear.weight)
        bias = None if linear.bias is None else linear.bias.clone()
        before = bytes_of(linear)
        try:
            module = implementation.quantize(linear, one_token=one_token).eval().requires_grad_(False)
            found = module(x)
            if found.shape != right.shape or found.dtype != right.dtype:
                raise ValueError(f"it gives {tuple(found.shape)} {found.dtype} for {tuple(right.shape)} {right.dtype}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, whatever it is
            if is_out_of_memory(error) or isinstance(error, Dit360Error):
                raise
            said = str(error) if isinstance(error, Exception) and not isinstance(error, SystemExit) else ""
            raise NotQuantized(
                f"the layer {name} ({linear.in_features} → {linear.out_features}) cannot be quantized "
                f"({said.strip().rstrip('.') or type(error).__name__})",
                f"leave it out with {setting('quantization_skip', f'{name!r}')}, or choose another "
                f"{named('quantization_mode')}",
            ) from error
        # The bias is exact; in fp16 and bf16 its sum with the product is rounded like everything else.
        # On the CPU, since not every device has float64.
        right, found = right.cpu().double(), found.cpu().double()
        off = found - (right if bias is None else right + bias.cpu().double())
        error_ = float(off.norm() / right.norm()) if bool(right.any()) else float(off.norm())
        kept = None
        if lora is not None:
            # Against the quantized layer without it, of which most weights are rounded alike: nearly free of noise.
            added, did = lora.effect(x).cpu().double(), found - lora.without.cpu().double()
            kept = float((did * added).sum() / added.square().sum()) if bool(added.any()) else None
    after = bytes_of(module)
    if not error_ < WRONG:
        off = f"off by {error_:.0%}, where {WRONG:.0%} is allowed" if math.isfinite(error_) else "not finite"
        raise NotQuantized(
            f"the quantized layer {name} gives numbers that are {off} ({type(module).__name__})",
            f"that is a defect of what quantizes here, choose another {named('quantization_mode')}",
        )
    if type(module) is torch.nn.Linear or after >= before:
        raise NotQuantized(
            f"the layer {name} was not made smaller ({before} → {after} bytes, {type(module).__name__})",
            f"choose another {named('quantization_mode')}, or leave it out with "
            f"{setting('quantization_skip', f'{name!r}')}",
        )
    return module, Layer(
        name=name,
        kernel=type(module).__name__,
        one_token=one_token,
        bytes_before=before,
        bytes=after,
        error=error_,
        lora_kept=kept,
    )


AsUsed = Callable[[str, str, torch.nn.Module, torch.dtype], torch.nn.Module]
"""(part, name of the layer, quantized layer, dtype that it computes in) → what is put in its place."""


def quantize_module(
    module: torch.nn.Module,
    implementation: QuantizerImplementation,
    selection: Selection,
    *,
    part: str,
    as_used: AsUsed = lambda part, name, layer, dtype: layer,
) -> Converted:
    """Quantizes the selected layers of a loaded module in place, one after the other, where they are.

    as_used: puts around a layer what its module needs to call it. One that fails leaves those before it quantized.
    """
    layers = []
    for name, one_token in selection.layers.items():
        linear: Any = module.get_submodule(name)
        dtype = linear.weight.dtype
        made, layer = convert(linear, implementation, name=name, one_token=one_token)
        place(module, name, as_used(part, name, made, dtype))
        layers.append(layer)
    return Converted(part=part, layers=tuple(layers), left=selection.left)


def place(module: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    """Puts a layer where another was."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)


def trial_tokens(width: int, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Sixteen tokens ``(16, width)`` as FLUX has them: some larger than others, and a few channels twelve times so."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(16, width, generator=generator) * torch.randn(16, 1, generator=generator).exp()
    x[:, :: max(1, min(97, width // 2))] *= 12
    return x.to(device, dtype)


def bytes_of(module: torch.nn.Module) -> int:
    """What a module holds, or would save, whichever is more."""
    saved = sum(value.nbytes for value in module.state_dict().values() if isinstance(value, torch.Tensor))
    return max(saved, tensor_bytes(module))
