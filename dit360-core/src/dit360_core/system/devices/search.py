"""Which devices PyTorch will probably see, and if not, why not."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from dit360_core.system.devices import amd, nvidia
from dit360_core.system.devices.build import Build
from dit360_core.system.devices.cards import Card, visible

MACOS = (14, 0)
"""What PyTorch's MPS needs."""


@attrs.frozen(kw_only=True)
class Sight:
    """What a process sees.

    cards: those that this process sees, ``cuda:0`` first.
    why: half a sentence on why there are none.

    sure: without cards, that PyTorch cannot see any either.
    """

    cards: tuple[Card, ...] = ()
    why: str = ""
    sure: bool = True


def cuda(build: Build, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Sight:
    """What PyTorch calls ``cuda``: NVIDIA's cards, or AMD's where it is built for them.

    root: where ``proc`` is.
    """
    if not build.may_have_cuda:
        return Sight(why=f"the installed PyTorch {build.version} is built without CUDA".replace("  ", " "))
    return _of_amd(build, environ, root) if build.hip is not None else _of_nvidia(build, environ, root)


def _of_nvidia(build: Build, environ: Mapping[str, str], root: Path) -> Sight:
    if sys.platform == "darwin":
        return Sight(why="there is no CUDA on macOS")
    driver = nvidia.driver(root)
    if not driver.cards:
        why = driver.trouble and f"NVIDIA's driver says: {driver.trouble}"
        return Sight(why=why or "no NVIDIA card was found", sure=not driver.trace)
    needs = int(build.cuda.partition(".")[0]) if build.cuda else 0
    if driver.cuda is not None and driver.cuda[0] < needs:
        knows = ".".join(map(str, driver.cuda))
        why = f"NVIDIA's driver {driver.version} knows CUDA {knows}, and PyTorch {build.version} needs {build.cuda}"
        return Sight(why=f"{why}; update the driver", sure=False)
    order = driver.cards
    if environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        # CUDA puts what it takes for the fastest first.
        order = tuple(sorted(order, key=lambda card: (card.capability or (0, 0), card.memory), reverse=True))
    return _seen(order, "CUDA_VISIBLE_DEVICES", environ)


def _of_amd(build: Build, environ: Mapping[str, str], root: Path) -> Sight:
    found = amd.cards(root)
    if not found:
        # On Windows its driver has no such files.
        return Sight(why="no AMD card was found", sure=sys.platform == "linux" and not (root / "dev/kfd").exists())
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if name == "CUDA_VISIBLE_DEVICES" and "HIP_VISIBLE_DEVICES" in environ:
            continue
        sight = _seen(found, name, environ)
        if not sight.cards:
            return sight
        found = sight.cards
    return Sight(cards=found)


def _seen(cards: tuple[Card, ...], name: str, environ: Mapping[str, str]) -> Sight:
    asked = environ.get(name)
    seen = visible(cards, asked)
    if seen:
        return Sight(cards=seen)
    if asked is None:
        return Sight(why=f"{cards[0].name} is split (MIG) and has no instance")
    return Sight(why=f"{name}={asked!r} hides {cards[0].name}")


def mps_missing() -> str:
    """Why there is no MPS, Apple's; empty if there probably is."""
    if sys.platform != "darwin":
        return "MPS is Apple's, and this is no Mac"
    if platform.machine() != "arm64":
        return "MPS needs an Apple processor, and a Python made for it"
    system = platform.mac_ver()[0]
    if tuple(int(part) for part in system.split(".")[:2] if part.isdigit()) < MACOS:
        return f"MPS needs macOS {MACOS[0]}, and this is {system}"
    return ""
