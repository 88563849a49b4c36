"""Ways to multiply by int8 weights, one layer of FLUX at a time: which should int8 use on this device?

    python bench/int8_kernels.py --device cuda --precision bf16      # add torchao to have its kernels in the table too

Each is timed in turn with a plain Linear, medians of the ratios; the error is that of random tokens with outliers,
relative (root mean square). ``compiled``: under torch.compile, which fuses what surrounds the product.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from dit360_core.models.weights.conversion import trial_tokens
from dit360_core.plugins.builtin import int8
from dit360_core.system.dtypes import torch_dtype
from rich.console import Console
from rich.table import Table

SHAPES = ((3072, 3072), (3072, 12288), (12288, 3072), (15360, 3072))


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Of the activations.")] = "fp32",
    tokens: Annotated[int, typer.Option(help="How many.")] = 2048,
    rounds: Annotated[int, typer.Option(help="Pairs of timed calls.")] = 9,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also under torch.compile.")] = False,
) -> None:
    """Print a table: time against a plain Linear, and error."""
    dtype = torch_dtype(precision)
    table = Table("layer", "kernel", "time, Linear = 1", "error")
    for inside, outside in SHAPES:
        torch.manual_seed(0)
        linear = torch.nn.Linear(inside, outside).requires_grad_(False).to(device, dtype)
        x = trial_tokens(inside, dtype, device).repeat(tokens // 16, 1)[None]
        for name, make in kernels(device).items():
            for mode in ("", ", compiled") if compiled else ("",):
                try:
                    module = make(copy.deepcopy(linear))
                    module = torch.compile(module) if mode else module
                    ratio, error = measured(module, linear, x, rounds)
                    table.add_row(f"{inside} → {outside}", name + mode, f"{ratio:.2f}", f"{error:.2%}")
                except (RuntimeError, NotImplementedError, ValueError, AttributeError, AssertionError) as failed:
                    table.add_row(f"{inside} → {outside}", name + mode, f"{failed}"[:60], "")
    Console().print(table)


def kernels(device: str) -> dict[str, Callable[[torch.nn.Linear], torch.nn.Module]]:
    """Name → what makes a layer of a Linear."""
    found: dict[str, Callable[[torch.nn.Linear], torch.nn.Module]] = {
        "int8 as it is here": lambda linear: int8.Int8().quantize(linear, one_token=False),
        "weight-only": lambda linear: int8.WeightOnlyInt8Linear(*weights(linear)),
    }
    if device != "cpu":  # on a CPU without VNNI it takes minutes
        found["dynamic, torch._int_mm"] = lambda linear: IntMm(*weights(linear))
    try:
        import torchao.quantization as ao
    except ImportError:
        return found

    def by_torchao(config: object) -> Callable[[torch.nn.Linear], torch.nn.Module]:
        def make(linear: torch.nn.Linear) -> torch.nn.Module:
            holder = torch.nn.Sequential(linear)
            ao.quantize_(holder, config)
            return holder

        return make

    found["torchao, weight-only"] = by_torchao(ao.Int8WeightOnlyConfig())
    if device != "cpu":
        found["torchao, dynamic"] = by_torchao(ao.Int8DynamicActivationInt8WeightConfig())
    return found


def weights(linear: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """int8 weights, scales and bias."""
    state = int8.Int8().quantize(linear, one_token=True).state_dict()
    return state["weight"], state["scale"], state.get("bias")


class IntMm(torch.nn.Module):
    """Activations rounded with a scale for each token, and PyTorch's product of int8 matrices."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = weight, scale, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        largest = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / 127
        rounded = (rows / largest).round().to(torch.int8)
        out = torch._int_mm(rounded, self.weight.t()).float() * largest * self.scale
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype).view(*x.shape[:-1], -1)


def measured(module: torch.nn.Module, linear: torch.nn.Linear, x: torch.Tensor, rounds: int) -> tuple[float, float]:
    """Time against the Linear's, and error."""
    with torch.no_grad():
        right, found = linear(x).double(), module(x).double()
        ratios = []
        for _ in range(rounds):
            ratios.append(seconds(module, x) / seconds(linear, x))
    return statistics.median(ratios), float((found - right).norm() / right.norm())


def seconds(module: torch.nn.Module, x: torch.Tensor) -> float:
    """Of one call."""
    if x.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    module(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
