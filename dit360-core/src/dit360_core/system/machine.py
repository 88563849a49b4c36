"""What this machine has: device, memory, versions. Detected once and passed around, so that tests can invent one."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Mapping

import attrs

from dit360_core.errors import InputError
from dit360_core.system.installed import installed_version


@attrs.frozen(kw_only=True)
class Machine:
    """What this machine has.

    device: ``cpu``, ``cuda`` or ``mps``.
    device_name: as its driver calls it.
    device_memory, system_memory: bytes; 0: unknown.
    cpu_count: processors that this process may use.
    capability: CUDA's (major, minor), or None.
    fast_bfloat16: this device multiplies bfloat16 in hardware; elsewhere it is several times slower than float32.
    platform, python: the system, and the version of Python.
    guessed: the device was found without PyTorch, which may see it otherwise.
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
    guessed: bool = False

    def version(self, distribution: str) -> str | None:
        """Installed version of a distribution, or None. What a test gave in ``versions`` wins over the metadata."""
        return self.versions.get(distribution) or installed_version(distribution)

    @classmethod
    def detect(cls, device: str = "auto") -> Machine:
        """Looks at this machine, by the drivers' own word; PyTorch is asked only where it is imported already.

        device: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

        Raises InputError if what is asked for is missing. What is found so is a guess (``guessed``) until
        :meth:`confirmed` has asked PyTorch.
        """
        if device == "cpu":
            return cls._of_cpu()
        if _torch_is_imported():
            return cls.by_torch(device)
        # Every command imports this module for its help, which is not to wait for what looks for cards.
        from dit360_core.system.devices import search
        from dit360_core.system.devices.build import installed_build

        here, build = cls._of_cpu(), installed_build()
        why = ""
        may_be_more = False
        if device in ("auto", "cuda"):
            sight = search.cuda(build)
            if sight.cards:
                card = sight.cards[0]
                return attrs.evolve(
                    here,
                    device="cuda",
                    device_name=card.name,
                    device_memory=card.memory,
                    capability=card.capability,
                    fast_bfloat16=card.fast_bfloat16,
                    guessed=True,
                )
            why, may_be_more = sight.why, not sight.sure
        if device in ("auto", "mps"):
            missing = search.mps_missing()
            if not missing:
                return here._with_mps(guessed=True)
            why = missing if device == "mps" else why
        if device == "auto":
            return attrs.evolve(here, guessed=may_be_more)
        if may_be_more:
            return cls.by_torch(device)  # before an error, PyTorch has the last word
        raise InputError(f"The device {device!r} is not available here: {why or 'there is no such device'}.")

    @classmethod
    def by_torch(cls, device: str = "auto") -> Machine:
        """As :meth:`detect`, by PyTorch's own word, which holds. Imports it, in seconds."""
        here = cls._of_cpu()
        if device == "cpu":
            return here
        import torch

        has_cuda, complaint = _torch_has_cuda()
        has = {"cuda": has_cuda, "mps": torch.backends.mps.is_available(), "cpu": True}
        chosen = next(name for name in has if has[name]) if device == "auto" else device
        if not has.get(chosen, False):
            there = ", ".join(name for name in has if has[name])
            why = f" ({complaint})" if complaint and device == "cuda" else ""
            raise InputError(
                f"The device {chosen!r} is not available here: PyTorch {torch.__version__} does not see it{why}; "
                f"it sees: {there}."
            )
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
        return here._with_mps() if chosen == "mps" else here

    def confirmed(self, device: str = "auto") -> tuple[Machine, str]:
        """What PyTorch says of a guess, and a sentence if it is another device; empty if not.

        device: what was asked for. Imports PyTorch, unless this is no guess.

        Raises InputError if the device that was asked for is not there.
        """
        if not self.guessed:
            return self, ""
        found = Machine.by_torch(device)
        if found.device == self.device:
            return found, ""
        complaint = _torch_has_cuda()[1] if self.device == "cuda" else ""
        why = f" ({complaint})" if complaint else ""
        if found.device == "cpu":
            return found, f"PyTorch cannot use {self.device_name or self.device}{why}, so the CPU computes"
        return found, f"PyTorch found {found.device_name or found.device}, which was not seen before, so that computes"

    @classmethod
    def _of_cpu(cls) -> Machine:
        return cls(
            device_name=platform.processor() or platform.machine(),
            system_memory=_system_memory(),
            cpu_count=os.cpu_count() or 1,
            fast_bfloat16=_cpu_has_bfloat16(),
            platform=platform.platform(),
            python=platform.python_version(),
            versions={name: found for name in _REPORTED if (found := installed_version(name))},
        )

    def _with_mps(self, *, guessed: bool = False) -> Machine:
        return attrs.evolve(self, device="mps", device_memory=self.system_memory, fast_bfloat16=True, guessed=guessed)


def _torch_is_imported() -> bool:
    torch = sys.modules.get("torch")
    # Another thread may be in the midst of it.
    return torch is not None and not getattr(torch.__spec__, "_initializing", False) and hasattr(torch, "cuda")


def _torch_has_cuda() -> tuple[bool, str]:
    """Whether PyTorch sees CUDA, and what it complains about if not: it warns, and says no."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there or torch.version.cuda is None:
        return there, ""
    said = str(told[0].message).partition("(Triggered")[0] if told else ""
    return False, " ".join(said.removeprefix("CUDA initialization:").split()).rstrip(".")


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
    import psutil  # not at the top, as above

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
