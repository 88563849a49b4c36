"""DiT360 Upscale makes the picture that the core makes."""

import numpy as np
import pytest
import torch
from called_nodes import HEIGHT, WIDTH, refused, region, run, sky
from dit360_comfy.settings import recall
from dit360_core.panorama.resizing import resampled
from PIL import Image

UPSCALING = {
    "width": 2 * WIDTH, "denoise": 0.5, "steps": 2, "cfg_scale": -1.0, "seed": 5, "windows": f"{WIDTH}x{HEIGHT}",
}  # fmt: skip


def larger(pipe, words, image, **more):
    return run("DiT360Upscale", dit360_pipe=pipe, conditioning=words, image=image, **{**UPSCALING, **more})


def test_a_panorama_becomes_larger_as_by_the_core(pipe, words, tiny):
    (latents,) = larger(pipe, words, sky())
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)
    own = Image.fromarray((sky()[0] * 255).round().byte().numpy())
    core = tiny.upscale(
        own, "a meadow", to=2 * WIDTH, denoise=0.5, steps=2, seed=5, windows=UPSCALING["windows"]
    )  # fmt: skip
    assert image.shape == (1, 2 * HEIGHT, 2 * WIDTH, 3)
    # The core begins with eight bits of the picture, the node with what it is given.
    assert np.abs((image[0].numpy() * 255) - np.asarray(core.image, dtype=float)).mean() < 0.5
    told = recall(latents["samples"])[0]["used"]
    assert told["windows"]["count"] == core.settings["used"]["windows"]["count"] > 1
    assert told["cube_consistency"] == 1.0


def test_inputs_that_a_graph_leaves_out_are_those_that_the_node_shows(pipe, words):
    given = {name: value for name, value in UPSCALING.items() if name != "windows"}
    (latents,) = run("DiT360Upscale", dit360_pipe=pipe, conditioning=words, image=sky(), **{**given, "steps": 1})
    asked = recall(latents["samples"])[0]["requested"]
    assert (asked["windows"], asked["cube_consistency"]) == ("auto", 1.0)


def test_what_the_panorama_shows_stays_when_it_is_decoded(pipe, words):
    def made(latents):
        return run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)[0]

    def off(image):
        return np.abs(resampled(image[0].numpy(), (WIDTH, HEIGHT)) - sky()[0].numpy()).mean()

    (kept,), (free,) = larger(pipe, words, sky()), larger(pipe, words, sky(), faithful="never")
    kept_image, free_image = made(kept), made(free)
    assert off(kept_image) < off(free_image) / 10
    assert recall(kept_image)[0]["used"]["faithful"] is True
    assert recall(free_image)[0]["used"]["faithful"] is False
    assert recall(free_image)[0]["requested"]["faithful"] == "never"
    # What another node makes of the latents is no longer the panorama that was given.
    other = {**kept, "samples": kept["samples"] * 1.0}
    assert torch.equal(made(other), free_image)


def test_steps_are_the_models_own_times_the_share_where_none_are_asked(pipe, words):
    (latents,) = larger(pipe, words, sky(), steps=0, denoise=0.2)
    assert recall(latents["samples"])[0]["used"]["steps"] == 6


def test_detail_is_made_only_where_the_mask_says(pipe, words):
    (all_new,), (some,), (none,) = (
        larger(pipe, words, sky(), **more) for more in ({}, {"mask": region()}, {"mask": torch.zeros(1, HEIGHT, WIDTH)})
    )
    black = none["samples"]
    held = (some["samples"] - black).abs().amax(dim=(0, 1)) < 1e-5
    assert 0.2 < float(held.float().mean()) < 0.98
    assert (all_new["samples"] - black).abs().mean() > (some["samples"] - black).abs().mean() > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": WIDTH}, f"width is {WIDTH}, "),
        ({"width": 1000}, "width is 1000, but must be a multiple of 32; take 992"),
        ({"image": torch.rand(1, 64, 64, 3)}, "image has 64×64 pixels, and a panorama is twice as wide as high"),
        ({"denoise": 0.001}, "denoise is 0.001, but must be 0, or 0.01 … 1"),
        ({"windows": "big"}, "windows is 'big'"),
    ],
)
def test_what_cannot_be_made_larger_is_told(pipe, words, change, told):
    given = {"dit360_pipe": pipe, "conditioning": words, "image": sky(), **UPSCALING, **change}
    assert told in refused("DiT360Upscale", **given)
