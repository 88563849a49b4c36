"""How fast a device computes and how fast weights reach it: measured where it is, assumed where it is not."""

from __future__ import annotations

import time

import attrs

from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine


@attrs.frozen(kw_only=True)
class Speed:
    """operations: of multiplied matrices, a second. link, disk: bytes of weights a second to the device.

    measured: whether this device was asked; if not, these are those of a common card.
    shared: whether the device has the system's memory.
    """

    operations: float
    link: float
    disk: float = 1.5e9
    measured: bool
    shared: bool = False

    def sentence(self) -> str:
        """What times are based on."""
        if self.measured:
            return f"times: from a trial on this device, {self.operations / 1e12:.2g} TFLOP/s"
        if self.shared:
            return (
                f"times: of an Apple GPU that multiplies {self.operations / 1e12:.0f} TFLOP/s, as a Max chip's; this "
                "one is not here to be tried"
            )
        return (
            f"times: of a card that multiplies {self.operations / 1e12:.0f} TFLOP/s and gets "
            f"{self.link / 1e9:.0f} GB/s; this one is not here to be tried"
        )


ASSUMED = Speed(operations=60e12, link=20e9, measured=False)
APPLE = Speed(operations=10e12, link=100e9, disk=4e9, measured=False, shared=True)


def measure(machine: Machine, precision: str) -> Speed:
    """Multiplies two matrices; on CUDA also moves one from pinned memory. Takes a fraction of a second."""
    import torch

    device, dtype = torch.device(machine.device), torch_dtype(precision)
    cuda = device.type == "cuda"
    size = 1024 if device.type == "cpu" else 6144
    a = torch.ones(size, size, dtype=dtype, device=device)

    def seconds(run: object) -> float:
        best = float("inf")
        for _ in range(4):
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
            run()  # type: ignore[operator]
            if cuda:
                torch.cuda.synchronize()
            elif device.type == "mps":
                torch.mps.synchronize()
            best = min(best, time.perf_counter() - began)
        return best

    operations = 2 * size**3 / seconds(lambda: a @ a)
    link = ASSUMED.link
    if cuda:
        waiting = torch.empty(256 * 2**20, dtype=torch.uint8, pin_memory=True)
        link = waiting.nbytes / seconds(lambda: waiting.to(device, non_blocking=True))
    return Speed(operations=operations, link=link, measured=True)
