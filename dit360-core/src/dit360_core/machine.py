"""What this machine has: device, memory, versions. Detected once and passed around, so that tests can invent one."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata

import attrs

from dit360_core.errors import InputError


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, from its metadata, without importing it; None if it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@attrs.frozen(kw_only=True)
class Machine:
    """device: ``cpu``, ``cuda`` or ``mps``. Memory in bytes, 0 if unknown. capability: CUDA's (major, minor) or None.

    fast_bfloat16: this device multiplies bfloat16 in hardware; elsewhere it is several times slower than float32.
    versions: distribution → installed version, for what was looked up.
    """

    device: str = "cpu"
    device_name: str = ""
    device_memory: int = 0
    system_memory: int = 0
    cpu_count: int = 1
    capability: tuple[int, int] | None = None
    fast_bfloat16: bool = False
    platform: str = ""
    python: str = ""
    versions: Mapping[str, str] = attrs.field(factory=dict)

    def version(self, distribution: str) -> str | None:
        """Installed version of a distribution, or None. What a test gave in ``versions`` wins over the metadata."""
        return self.versions.get(distribution) or installed_version(distribution)

    @classmethod
    def detect(cls, device: str = "auto") -> Machine:
        """Looks at this machine. Imports torch, except where the CPU is asked for or torch's version knows no other.

        device: ``auto`` takes CUDA, then Apple's MPS, then the CPU.
        Raises InputError if the device asked for is not there.
        """
        here = cls(
            device_name=platform.processor() or platform.machine(),
            system_memory=_system_memory(),
            cpu_count=os.cpu_count() or 1,
            fast_bfloat16=_cpu_has_bfloat16(),
            platform=platform.platform(),
            python=platform.python_version(),
            versions={name: found for name in _REPORTED if (found := installed_version(name))},
        )
        if device == "cpu" or (device == "auto" and here.versions.get("torch", "").endswith("+cpu")):
            return here

        import torch

        has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        chosen = next(name for name in has if has[name]) if device == "auto" else device
        if not has.get(chosen, False):
            there = ", ".join(name for name in has if has[name])
            raise InputError(f"The device {chosen!r} is not available here; this torch sees: {there}.")
        if chosen == "cuda":
            properties = torch.cuda.get_device_properties(0)
            return attrs.evolve(
                here,
                device="cuda",
                device_name=properties.name,
                device_memory=properties.total_memory,
                capability=(properties.major, properties.minor),
                fast_bfloat16=properties.major >= 8,
            )
        if chosen == "mps":
            return attrs.evolve(here, device="mps", device_memory=here.system_memory, fast_bfloat16=True)
        return here


_REPORTED = (
    "dit360-core",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "huggingface-hub",
    "pluggy",
)


def _system_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _cpu_has_bfloat16() -> bool:
    # /proc/cpuinfo names the instruction sets without importing torch; other systems keep float32, which is always
    # right and only slower.
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            flags = next((line for line in cpuinfo if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
