"""NVIDIA's cards, by NVML, or else by ``nvidia-smi`` and the driver's files: none of them starts CUDA."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import psutil

from dit360_core.system.devices.cards import Card

_PATIENCE = 15.0
"""Seconds for nvidia-smi, which takes some to wake a card."""
_TRACES = ("proc/driver/nvidia", "dev/nvidiactl", "dev/dxg", "dev/nvhost-gpu", "dev/nvmap")
"""Of a driver: the usual one, that of Windows under WSL, those of Jetson boards."""


@attrs.frozen(kw_only=True)
class Driver:
    """What a driver tells of its cards.

    cards: in the order of their buses.
    cuda: the newest CUDA that the driver knows, (major, minor), or None.

    version: of the driver, or empty.
    trace: whether there is a sign of a driver, so that PyTorch may see more than was found here.
    trouble: what NVML complains about, in its own words.
    """

    cards: tuple[Card, ...] = ()
    cuda: tuple[int, int] | None = None
    version: str = ""
    trace: bool = False
    trouble: str = ""


def driver(root: Path = Path("/")) -> Driver:
    """What is known of NVIDIA's driver and cards.

    root: where ``proc`` and ``dev`` are.
    """
    told = _by_nvml()
    if told is not None and (told.cards or not told.trouble):
        return told
    trouble = told.trouble if told is not None else ""
    trace = told is not None or any((root / each).exists() for each in _TRACES)
    program = shutil.which("nvidia-smi")
    cards = _by_program(program) if program else ()
    cards = cards or _by_files(root / "proc/driver/nvidia/gpus")
    return Driver(cards=cards, trace=bool(trace or program), trouble=trouble)


# --------------------------------------------------------------------------------------------------------------- NVML


def _by_nvml() -> Driver | None:
    """None if there is no NVML, which comes with the driver."""
    # Its Python module is large, and for nothing where the library is not there.
    if not sys.platform.startswith("win"):
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return None if error.value in absent else Driver(trace=True, trouble=str(error))
    try:
        cuda = _or_none(pynvml.nvmlSystemGetCudaDriverVersion_v2) or _or_none(pynvml.nvmlSystemGetCudaDriverVersion)
        return Driver(
            cards=tuple(_cards(pynvml)),
            cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            version=_or_none(pynvml.nvmlSystemGetDriverVersion) or "",
            trace=True,
        )
    except pynvml.NVMLError as error:
        return Driver(trace=True, trouble=str(error))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _cards(nvml: Any) -> Iterator[Card]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError:
            continue  # one that fell off its bus, or that this user may not see
        capability = _or_none(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        card = _card(nvml, handle, tuple(capability) if capability else None)
        mode = _or_none(nvml.nvmlDeviceGetMigMode, handle)
        if mode and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            handles = (
                _or_none(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
                for number in range(_or_none(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
            )
            parts = (_card(nvml, part, card.capability, of=card.name) for part in handles if part is not None)
            card = attrs.evolve(card, instances=tuple(parts))
        yield card


def _card(nvml: Any, handle: Any, capability: tuple[int, int] | None, of: str = "NVIDIA card") -> Card:
    return Card(
        name=_or_none(nvml.nvmlDeviceGetName, handle) or of,
        memory=_memory(nvml, handle),
        capability=capability,
        fast_bfloat16=capability is None or capability >= (8, 0),
        uuid=_or_none(nvml.nvmlDeviceGetUUID, handle) or "",
    )


def _memory(nvml: Any, handle: Any) -> int:
    """As PyTorch counts it: without what the driver keeps for itself."""
    second = _or_none(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    if second is not None and second.total:
        return int(second.total - second.reserved)
    first = _or_none(nvml.nvmlDeviceGetMemoryInfo, handle)
    # Boards that share the system's memory (Jetson, GB10) do not answer.
    return int(first.total) if first is not None else _system_memory()


def _system_memory() -> int:
    return int(psutil.virtual_memory().total)


def _or_none(function: Any, *arguments: Any) -> Any:
    """What NVML answers, or None for what this driver or card does not know."""
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


# ----------------------------------------------------------------------------------------------- its program and files


def _by_program(program: str) -> tuple[Card, ...]:
    """As ``nvidia-smi`` lists them; older ones do not know the compute capability."""
    for fields in ("name,uuid,memory.total,mig.mode.current,compute_cap", "name,uuid,memory.total"):
        lines = _said(program, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        if rows and all(len(row) == len(fields.split(",")) for row in rows):
            return tuple(_of_row(program, *row) for row in rows)
    return ()


def _of_row(program: str, name: str, uuid: str, mebibytes: str, split: str = "", capability: str = "") -> Card:
    major, _, minor = capability.partition(".")
    known = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
    card = Card(
        name=name,
        memory=int(mebibytes) * 2**20 if mebibytes.isdigit() else 0,
        capability=known,
        fast_bfloat16=known is None or known >= (8, 0),
        uuid=uuid,
    )
    return attrs.evolve(card, instances=_parts_of(program, card)) if split == "Enabled" else card


def _parts_of(program: str, card: Card) -> tuple[Card, ...]:
    """The instances of a split card: lines that are indented under its own. What memory they have is not said."""
    parts: list[Card] = []
    under = False
    for line in _said(program, "-L"):
        uuid = line.partition("UUID: ")[2].rstrip(" )")
        if not line.startswith(" "):
            under = uuid == card.uuid
        elif under and uuid.startswith("MIG-"):
            profile = line.split(" Device")[0].strip()
            parts.append(attrs.evolve(card, name=f"{card.name} {profile}", memory=0, uuid=uuid))
    return tuple(parts)


def _said(program: str, *arguments: str) -> list[str]:
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _by_files(folder: Path) -> tuple[Card, ...]:
    """``/proc/driver/nvidia/gpus/BUS/information``, which is all that a container without NVIDIA's tools has."""
    cards = []
    for file in sorted(folder.glob("*/information")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        cards.append(Card(name=told.get("Model") or "NVIDIA card", uuid=told.get("GPU UUID", "")))
    return tuple(cards)
