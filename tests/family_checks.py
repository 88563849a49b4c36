"""What is tried of every family of models in the same way, with one that is saved in a folder."""

import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.errors import BackendUnavailable
from dit360_core.models.families import architecture_of
from dit360_core.models.residency.placement import displace, place
from dit360_core.sphere.grid import Grid
from safetensors.torch import save_file

SMALL = {"width": 64, "steps": 1, "seed": 3}
MODES = ("int8", "int4", "fp8")


def write_lora(file, denoiser, layers, rank=4):
    """A LoRA of diffusers' form for some Linear layers of a denoiser, strong enough to be seen."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name in layers:
        linear = denoiser.get_submodule(name)
        down = torch.randn(rank, linear.in_features, generator=generator) * linear.in_features**-0.5
        up = torch.randn(linear.out_features, rank, generator=generator) * 0.3
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_file(tensors, file)
    return file


def pixels(panorama):
    return np.asarray(panorama.image).astype(int)


def check_quantized_with_a_lora_wherever_it_waits(folder, lora, mode, lora_mode, **options):
    """One mode: the picture is near the one in full, the LoRA is in it, and where weights wait changes no number."""
    settings = {"device": "cpu", "precision": "fp32", "lora": str(lora), "lora_mode": lora_mode}
    picture = {"prompt": "a calm sea", **SMALL, **options}
    pipe = dit360.load(str(folder), quantization_mode=mode, **settings)
    made = pipe.generate(**picture)
    told, plain = made.settings["used"], pixels(made)
    assert told["quantization"]["used"] == mode
    assert told["loras"][0]["modules"] > 0
    assert set(told["quantization"]["parts"]) == set(architecture_of(folder).quantized_by("both"))
    # What the planner says lies on the device in a step is what is loaded.
    here = pipe._loaded.weights_here() - tables(pipe.engine.pipe)
    assert pipe.predict(width=64).phase("step").weights == pytest.approx(here, rel=0.1)
    family, parts = architecture_of(folder), pipe.engine.pipe
    for offload in ("text", "group"):
        place(parts, family, offload, torch.device("cpu"))
        assert np.array_equal(pixels(pipe.generate(**picture)), plain), offload
        displace(parts, family)
    place(parts, family, "model", torch.device("cpu"))
    assert np.array_equal(pixels(pipe.generate(**picture)), plain), "model"
    parts.remove_all_hooks()
    if mode == "fp8":
        in_files = dit360.load(str(folder), quantization_mode=mode, offload="disk", **settings)
        assert np.array_equal(pixels(in_files.generate(**picture)), plain), "disk"
    else:  # packed weights of either cannot lie in files, whatever the model
        with pytest.raises(BackendUnavailable, match="offload=disk"):
            dit360.load(str(folder), quantization_mode=mode, offload="disk", **settings)
    return plain


def tables(pipe):
    """Bytes of complex tensors that modules hold beside parameters and buffers, those of positions: a few MB of any
    model, and half of a miniature."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    held = [value for part in modules for module in part.modules() for value in vars(module).values()]
    return sum(value.nbytes for value in held if isinstance(value, torch.Tensor) and value.is_complex())


def check_step_is_predicted(pipe, embedding, *, width=512, text=None):
    """The activations of a step, by the allocations that torch's profiler sees. embedding: of the longest prompt.

    With a kernel that takes nothing: what PyTorch's own takes on a CPU grows with its threads.
    """
    from torch.profiler import ProfilerActivity, profile

    grid = Grid.of_picture(width, width // 2, 1)
    velocity = pipe.engine.velocity(grid, None, _nothing)
    x = pipe.engine.pack(pipe.engine.noise(grid, torch.Generator().manual_seed(1)))
    with torch.no_grad():
        velocity(x, 1.0, embedding)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            velocity(x, 1.0, embedding)
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    shapes = pipe._loaded.subject(*_asked()).shapes
    traced = shapes.step(
        torch.float32, grid.tokens, int(embedding.tokens.shape[1]), stores_scores=False, slice_size=0, quantized=None,
        size=int,
    ).peak  # fmt: skip
    assert traced == pytest.approx(most + tables(pipe.engine.pipe), rel=0.1)


def _nothing(q, k, v, **_):
    return torch.zeros_like(q)


def check_weights_are_predicted(pipe):
    """Bytes of every part, by what is loaded."""
    shapes = pipe._loaded.subject(*_asked()).shapes
    for name in pipe.engine.architecture.names:
        part = getattr(pipe.engine.pipe, name)
        there = sum(tensor.nbytes for tensor in [*part.parameters(), *part.buffers()])
        assert shapes.weights(name, torch.float32).total == pytest.approx(there, rel=0.01), name


def _asked():
    from dit360_core.options import DecodeOptions, SampleOptions

    return SampleOptions(prompt="any"), DecodeOptions()
