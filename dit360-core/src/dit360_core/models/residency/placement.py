"""Where weights wait and compute: accelerate's offloading of whole parts and of layers, diffusers' of blocks.

Each of them leaves the numbers as they are: the same weights meet the same kernels. ``group`` brings one block while
the one before it computes, so that weights in full precision need two blocks' room and, where a block computes longer
than it travels, no time.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from dit360_core.errors import InputError, setting
from dit360_core.models.architecture import Architecture
from dit360_core.models.weights.quiet import quiet
from dit360_core.system.memory import gib
from dit360_core.system.progress import underway

_HOOKS = ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker")


def place(pipe: Any, architecture: Architecture, offload: str, device: torch.device) -> None:
    """Puts the parts of a pipeline, all on the CPU, where ``offload`` wants them; parts that are not there are passed.

    disk: blocks are written to a temporary folder, which goes when the part does.
    """
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif architecture.by_blocks(offload):
        for name in architecture.names:
            part = getattr(pipe, name, None)
            if part is not None:
                place_part(architecture, name, part, offload, device)
    else:
        move([part for name in architecture.names if (part := getattr(pipe, name, None)) is not None], device)
        pipe.to(device)


def move(parts: Sequence[torch.nn.Module], device: torch.device) -> None:
    """Moves parts to a device block by block, and tells how far that is: what lies on mapped files is read by it."""

    def elsewhere(module: torch.nn.Module) -> int:
        tensors = [*module.parameters(), *module.buffers()]
        return sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)

    # To its end in any case: half of it here and half there, a pipeline is of no use.
    with underway(f"Moving weights to {device.type}", sum(map(elsewhere, parts)), ends=False) as progress:
        for part in parts:
            for block in [block for child in part.children() for block in _blocks(child)]:
                size = elsewhere(block)
                block.to(device)
                progress.advance(size)
            part.to(device)


def _blocks(child: torch.nn.Module) -> Iterable[torch.nn.Module]:
    return child if isinstance(child, torch.nn.ModuleList) else (child,)


def place_part(architecture: Architecture, name: str, part: Any, offload: str, device: torch.device) -> None:
    """One part, by blocks if ``offload`` says so of it, else on the device."""
    if name not in architecture.by_blocks(offload):
        move([part], device)
        return
    with quiet():
        from diffusers.hooks.group_offloading import apply_group_offloading

        streams = device.type == "cuda"
        if streams and offload != "disk":
            into_pinned_memory(part)
        folder = None
        if offload == "disk":
            _check_room(part)
            _apart(part)
            folder = tempfile.mkdtemp(prefix="dit360-")
            # The files go when the part does, or the process ends.
            weakref.finalize(part, shutil.rmtree, folder, ignore_errors=True)
        apply_group_offloading(
            part,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            non_blocking=streams,
            use_stream=streams,
            record_stream=streams,
            offload_to_disk_path=folder,
            block_modules=list(architecture.part(name).streamed) or None,
        )
        if offload == "disk" and device.type == "cpu":
            for module in part.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_pre_hook(_aligned)


def _apart(part: torch.nn.Module) -> None:
    """Gives each parameter memory of its own, without which safetensors writes no file: three layers of a LoRA that was
    trained on one have one factor."""
    seen: set[int] = set()
    for parameter in part.parameters():
        at = parameter.untyped_storage().data_ptr()
        if parameter.numel() and at in seen:
            parameter.data = parameter.data.clone()
        else:
            seen.add(at)


ALIGNMENT = 64
"""Bytes to which PyTorch aligns what it allocates on a CPU. A file that is mapped aligns to 8."""


def _aligned(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    """Copies a layer's mapped weights to where PyTorch would have put them, for the numbers to be the same.

    A library of linear algebra multiplies a matrix by one vector in another order if rows are not aligned: MKL on AVX2
    differs by 1e-6 with weights at 4 or 8 bytes beyond a multiple of 16. Only such layers are copied (the modulation
    of a block): products of matrices are packed first, and were the same at every offset.
    """
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if given[0].numel() == given[0].shape[-1] and weight.data_ptr() % ALIGNMENT:
        weight.data = weight.data.clone()  # goes with the block's other weights


ARENA = 2**30
"""Bytes of pinned memory taken at once: torch rounds each request up to a power of two, which of a layer's 75 MiB would
make 128."""


def into_pinned_memory(part: torch.nn.Module, *, pin: bool = True) -> None:
    """Moves weights that lie in system memory into pinned memory, one by one, so that they are never there twice.

    diffusers takes pinned tensors as they are, and would otherwise copy the whole part first.

    pin: not, for a machine that cannot.
    """
    arena, used = torch.empty(0, dtype=torch.uint8), 0
    for tensor in dict.fromkeys([*part.parameters(), *part.buffers()]):
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            continue
        size = -(-tensor.nbytes // 256) * 256
        if used + size > arena.nbytes:
            arena, used = torch.empty(max(ARENA, size), dtype=torch.uint8, pin_memory=pin), 0
        place_ = arena[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place_.copy_(tensor.data)
        used += size


def _check_room(part: torch.nn.Module) -> None:
    """Raises InputError unless the temporary folder takes a part."""
    needed = sum(tensor.nbytes for tensor in [*part.parameters(), *part.buffers()])
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise InputError(
            f"{setting('offload', 'disk')} needs {gib(needed)} in {folder}, which has {gib(free)}; make room, or set "
            "TMPDIR."
        )


def settle(pipe: Any, architecture: Architecture) -> None:
    """Sends blocks back that came for a run which then failed, and that nothing else would send back."""
    for name in architecture.names:
        part = getattr(pipe, name, None)
        for module in part.modules() if part is not None else ():
            registry = module.__dict__.get("_diffusers_hook")
            hook = registry.get_hook("group_offloading") if registry is not None else None
            if hook is not None and hook.group.offload_leader is module:
                hook.group.offload_()


def offloaded_by(pipe: Any, architecture: Architecture) -> str:
    """How somebody else has offloaded a pipeline: none, model, sequential or group."""
    for name in architecture.names:
        part = getattr(pipe, name, None)
        for module in part.modules() if part is not None else ():
            registry = module.__dict__.get("_diffusers_hook")
            if registry is not None and registry.get_hook("group_offloading") is not None:
                return "group"
            hook = module.__dict__.get("_hf_hook")
            if hook is not None:
                return "model" if module is part and type(hook).__name__ == "CpuOffload" else "sequential"
    return "none"


def device_for(pipe: Any, architecture: Architecture, lies: torch.device, offload: str) -> torch.device:
    """Where a pipeline is to compute that lies on a device. Raises InputError if it is offloaded already."""
    if (already := offloaded_by(pipe, architecture)) != "none":
        raise InputError(f"The pipeline is offloaded already ({already}); leave {setting('offload', offload)} out.")
    return torch.device("cuda") if lies.type == "cpu" and torch.cuda.is_available() and offload != "disk" else lies


def displace(pipe: Any, architecture: Architecture) -> None:
    """Takes every offloading away and brings all weights to the CPU; not from ``disk``, where they are not."""
    pipe.maybe_free_model_hooks()
    pipe.remove_all_hooks()
    for name in architecture.names:
        part = getattr(pipe, name, None)
        if part is None:
            continue
        for module in part.modules():
            registry = module.__dict__.get("_diffusers_hook")
            for hook in _HOOKS if registry is not None else ():
                registry.remove_hook(hook, recurse=False)
        part.to("cpu")
