"""What only a CUDA device can show."""

import dit360_core as dit360
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

PICTURE = {"prompt": "a calm sea under a starry night sky", "seed": 3, "width": 256, "steps": 8}


def psnr(a, b):
    import numpy as np

    error = ((np.asarray(a.image, dtype=float) - np.asarray(b.image, dtype=float)) ** 2).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def test_a_seed_gives_the_same_picture_on_cpu_and_gpu():
    cpu, gpu = (dit360.load("tiny", device=device).generate(**PICTURE) for device in ("cpu", "cuda"))
    assert psnr(cpu, gpu) >= 40


def test_twice_on_the_gpu_is_bit_for_bit():
    pipe = dit360.load("tiny", device="cuda")
    assert pipe.generate(**PICTURE).image.tobytes() == pipe.generate(**PICTURE).image.tobytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_paints_the_same_scene(precision):
    full, half = (dit360.load("tiny", device="cuda", precision=p).generate(**PICTURE) for p in ("fp32", precision))
    assert psnr(full, half) >= 25


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_nothing_and_leaves_the_gpu_empty(offload):
    plain = dit360.load("tiny", device="cuda").generate(**PICTURE)
    torch.cuda.empty_cache()
    pipe = dit360.load("tiny", device="cuda", offload=offload)
    assert pipe.generate(**PICTURE).image.tobytes() == plain.image.tobytes()
    assert {p.device.type for p in pipe.engine.transformer.parameters()} <= {"cpu", "meta"}


def test_two_kernels_agree():
    pipe = dit360.load("tiny", device="cuda")
    eager, sdpa = (pipe.generate(**PICTURE, attention_backend=name) for name in ("eager", "sdpa"))
    assert psnr(eager, sdpa) >= 50
