"""FlashAttention kernels of the Hugging Face Hub: which fit a GPU, which are there, and the command that fetches them.

    python -m dit360_attn_flash.hub

Nothing else here touches the network, and asking what is there reads a folder's name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import attrs

Capability = tuple[int, int]


@attrs.frozen
class HubKernel:
    """repository: on the Hub. version: of its programming interface. since, before: compute capabilities it is for."""

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


def downloaded(capability: Capability | None) -> HubKernel | None:
    """The first that fits and is in the cache."""
    return next((kernel for kernel in fitting(capability) if _folder(kernel).is_dir()), None)


def _folder(kernel: HubKernel) -> Path:
    from huggingface_hub import constants

    cache = os.environ.get("KERNELS_CACHE") or constants.HF_HUB_CACHE
    return Path(cache) / f"kernels--{kernel.repository.replace('/', '--')}"


def load(kernel: HubKernel) -> ModuleType:
    """Imports a kernel from the cache. Raises FileNotFoundError if its build for this PyTorch is not there."""
    import kernels

    path = kernels.install_kernel(kernel.repository, version=kernel.version, local_files_only=True)
    module: ModuleType = kernels.get_local_kernel(path)
    return module


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
