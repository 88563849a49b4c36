"""FlashAttention kernels of the Hugging Face Hub: which fit a GPU, which are there, and the command that fetches them.

    python -m dit360_attn_flash.hub

Nothing else here touches the network, and asking what is there looks at names of folders.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

Capability = tuple[int, int]


class HubKernel(NamedTuple):
    """A kernel of the Hub.

    repository: on the Hub.
    version: of its programming interface.
    since, before: compute capabilities it is for.
    """

    repository: str
    version: int
    since: Capability
    before: Capability


KERNELS = (
    HubKernel("kernels-community/flash-attn3", 1, (9, 0), (10, 0)),
    HubKernel("kernels-community/flash-attn2", 3, (8, 0), (99, 0)),
)


def fitting(capability: Capability | None) -> tuple[HubKernel, ...]:
    """Those for a compute capability, the better first; all of them if it is not known."""
    return tuple(k for k in KERNELS if capability is None or k.since <= capability < k.before)


def downloaded(capability: Capability | None) -> list[Path]:
    """The folders of those that fit and are in the cache, the better kernel and the newer folder first."""
    return [folder for kernel in fitting(capability) for folder in _snapshots(kernel)]


def _snapshots(kernel: HubKernel) -> list[Path]:
    # The package kernels finds a version in the cache by a reference that it does not write when it downloads one
    # (0.17.2), so the folders themselves are looked at.
    from huggingface_hub import constants

    cache = Path(os.environ.get("KERNELS_CACHE") or constants.HF_HUB_CACHE)
    builds = cache.glob(f"kernels--{kernel.repository.replace('/', '--')}/snapshots/*/build")
    newest = sorted(builds, key=lambda path: path.stat().st_mtime, reverse=True)
    return [build.parent for build in newest if _version(build) == kernel.version]


def _version(build: Path) -> int | None:
    """What the builds in a folder say of themselves, which is the same for all of them."""
    for file in sorted(build.glob("*/metadata.json")):
        try:
            version = json.loads(file.read_text(encoding="utf-8")).get("version")
        except (OSError, ValueError, AttributeError):
            continue
        return version if isinstance(version, int) else None
    return None


def load(folders: Iterable[Path]) -> ModuleType:
    """Imports the first kernel with a build for this PyTorch. Raises FileNotFoundError if none has one.

    A kernel that needs other kernels would have these fetched, unless HF_HUB_OFFLINE is set; those here need none.
    """
    import kernels

    reasons = []
    for folder in folders:
        try:
            module: ModuleType = kernels.get_local_kernel(folder)
        except FileNotFoundError as error:
            reasons.append(str(error))
        else:
            return module
    raise FileNotFoundError("; ".join(reasons) or "no kernel of the Hub is downloaded: python -m dit360_attn_flash.hub")


def main() -> int:
    """Downloads the kernel that fits this GPU. Exit code 2 if it cannot."""
    import torch

    try:
        import kernels
    except ImportError:
        print('The package kernels is not installed: pip install "dit360-attn-flash[hub]"', file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("FlashAttention needs a CUDA device, and PyTorch sees none here.", file=sys.stderr)
        return 2
    for kernel in fitting(torch.cuda.get_device_capability()):
        try:
            path = kernels.install_kernel(kernel.repository, version=kernel.version)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{kernel.repository} cannot be had: {error}", file=sys.stderr)
            continue
        print(f"{kernel.repository} is in {path}; 'dit360 backends --probe' tries it.")
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
