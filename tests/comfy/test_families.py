"""Models of other families in the nodes: latents as ComfyUI has them, and pictures that a model is shown."""

import dit360_core as dit360
import numpy as np
import pytest
import torch
from called_nodes import HEIGHT, INPAINTING, SAMPLING, TINY, WIDTH, refused, region, run, sky
from dit360_comfy.settings import recall
from PIL import Image
from random_families import random_klein, random_qwen
from safetensors.torch import save_file
from weight_files import part

PROMPT = "a calm sea"


def loaded(make, place):
    make().save_pretrained(place)
    (pipe,) = run("DiT360Loader", **{**TINY, "precision": "fp32"}, custom_model=str(place))
    words = run("DiT360TextEncode", dit360_pipe=pipe, prompt=PROMPT, negative_prompt="", max_length=0)[0]
    core = dit360.load(str(place), device="cpu", precision="fp32")
    return pipe, words, core


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    """The pipe, the prompt, and the same model in the core."""
    return loaded(random_klein, tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return loaded(random_qwen, tmp_path_factory.mktemp("qwen"))


def sampled(pipe, words, **more):
    return run(
        "DiT360Sampler", dit360_pipe=pipe, conditioning=words, **{**SAMPLING, "steps": 1, "width": WIDTH, **more}
    )[0]


def decoded(pipe, latents):
    return run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)[0]


def levels(image):
    return (image[0].numpy() * 255).round()


# ------------------------------------------------------------------------------------------ latents as ComfyUI has them


@pytest.mark.parametrize(
    ("family", "shape"), [("klein", (1, 64, HEIGHT // 16, WIDTH // 16)), ("qwen", (1, 16, 1, HEIGHT // 8, WIDTH // 8))]
)
def test_latents_go_between_the_nodes_in_comfyuis_form(family, shape, request):
    pipe, words, core = request.getfixturevalue(family)
    made = sampled(pipe, words)
    assert tuple(made["samples"].shape) == shape
    picture = core.generate(PROMPT, width=WIDTH, steps=1, seed=5)
    assert np.abs(levels(decoded(pipe, made)) - np.asarray(picture.image, dtype=float)).max() <= 1
    (again,) = run("DiT360Encode", image=decoded(pipe, made), dit360_pipe=pipe)
    assert tuple(again["samples"].shape) == shape
    begun = sampled(pipe, words, latent_image=again, denoise=0.5, width=0)
    right = core.generate(PROMPT, image=picture, denoise=0.5, steps=1, seed=5)
    assert np.abs(levels(decoded(pipe, begun)) - np.asarray(right.image, dtype=float)).max() <= 2


def test_klein_hands_on_what_comfyuis_autoencoder_of_it_takes(klein):
    """Normalised, the four latents of a token as channels: c·4 + 2·row + column."""
    pipe, words, core = klein
    samples = sampled(pipe, words)["samples"]
    own = core.sample(core.encode(PROMPT), width=WIDTH, steps=1, seed=5).tensor
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.allclose(samples[:, 2 * row + column :: 4], own[:, :, row::2, column::2], atol=1e-5)


def test_empty_latents_give_their_size_whatever_model_they_are_for(klein, qwen):
    pipe, words, _ = klein
    small = {"width": 0, "denoise": 1.0}
    for samples, ratio in (
        (torch.zeros(1, 64, 4, 8), None), (torch.zeros(1, 16, 8, 16), None), (torch.zeros(1, 4, 8, 16), 8),
        (torch.zeros(1, 16, 1, 8, 16), None), (torch.zeros(1, 4, 4, 8), 16),
    ):  # fmt: skip
        empty = {"samples": samples, **({"downscale_ratio_spacial": ratio} if ratio else {})}
        assert tuple(sampled(pipe, words, latent_image=empty, **small)["samples"].shape) == (1, 64, 4, 8), samples.shape
    made = sampled(*qwen[:2], latent_image={"samples": torch.zeros(1, 4, 8, 16)}, **small)
    assert tuple(made["samples"].shape) == (1, 16, 1, 8, 16)


def test_latents_of_another_model_or_a_film_are_told(klein, qwen):
    asked = {**SAMPLING, "steps": 1, "denoise": 0.5}
    for (pipe, words, _), samples, told in (
        (klein, torch.zeros(1, 16, 8, 16), "The latents have 16 channels, and this model's have 64"),
        (qwen, torch.zeros(1, 64, 4, 8), "The latents have 64 channels, and this model's have 16"),
        (qwen, torch.zeros(1, 16, 3, 8, 16), "which is no picture's"),
        (qwen, torch.zeros(16, 8, 16), "which is no picture's"),
    ):
        given = {"dit360_pipe": pipe, "conditioning": words, "latent_image": {"samples": samples}}
        assert told in refused("DiT360Sampler", **given, **asked)
        if samples.ndim == 4 or samples.shape[0] == 1:
            assert told.split(",")[0] in refused(
                "DiT360Decode", samples={"samples": samples}, dit360_pipe=pipe, auto_blend_edges=False
            )


# --------------------------------------------------------------------------------------- pictures that a model is shown


def inpainted(pipe, words, image, mask, **more):
    """The picture with what was kept pasted back, and its settings."""
    latents, where = run(
        "DiT360Inpaint", dit360_pipe=pipe, conditioning=words, image=image, mask=mask,
        **{**INPAINTING, "steps": 1, "cfg_scale": 1.0, **more},
    )  # fmt: skip
    (made,) = run(
        "DiT360PasteBack", image=decoded(pipe, latents), original=image, mask=where, match_colours=True, feather=-1.0
    )
    return levels(made), recall(latents["samples"])[0]["used"]


def test_a_model_that_refers_is_shown_a_photo_as_in_the_core(klein):
    from dit360_core.panorama.photos import Photo

    pipe, words, core = klein
    looking = {"fov": 70.0, "yaw": 170.0, "pitch": 20.0, "roll": 10.0}
    photo, *_ = run("DiT360PanoramaToView", panorama=sky(2 * HEIGHT), **looking, width=96, height=64)
    image, mask = run("DiT360PhotoToPanorama", image=photo, **looking, width=WIDTH, height=0)
    made, told = inpainted(pipe, words, image, mask)
    own = Photo(Image.fromarray(levels(photo).astype(np.uint8)), **looking)
    asked = {"photo": own, "width": WIDTH, "steps": 1, "seed": 5, "guidance": 1.0}
    right = core.generate(PROMPT, **asked)
    assert np.abs(made - np.asarray(right.image, dtype=float)).max() <= 1
    assert told["reference"]
    assert right.settings["used"]["reference"]
    assert told["prompt_prefix"] == right.settings["used"]["prompt_prefix"]
    unseen, told = inpainted(pipe, words, image, mask, reference="never")
    assert "reference" not in told
    alone = core.generate(PROMPT, **asked, reference="never")
    assert np.abs(unseen - np.asarray(alone.image, dtype=float)).max() <= 1
    assert np.abs(made - unseen).max() > 2


def test_the_sampler_shows_what_the_mask_of_latents_leaves(klein):
    pipe, words, _ = klein
    (own,) = run("DiT360Encode", image=sky(), dit360_pipe=pipe)
    masked = {**own, "noise_mask": region().reshape(1, 1, HEIGHT, WIDTH)}
    given = {"latent_image": masked, "width": 0, "cfg_scale": 1.0}
    shown, unseen = (sampled(pipe, words, **given, reference=value) for value in ("auto", "never"))
    assert recall(shown["samples"])[0]["used"]["reference"]
    assert "reference" not in recall(unseen["samples"])[0]["used"]
    hole = torch.nn.functional.max_pool2d(region()[:, None], 16)[0, 0] > 0
    for made in (shown, unseen):
        assert (made["samples"] - own["samples"])[0, :, ~hole].abs().max() <= 1e-5
    assert (shown["samples"] - unseen["samples"])[0, :, hole].abs().max() > 0.01
    # Without a mask nothing is kept, and nothing is shown.
    assert "reference" not in recall(sampled(pipe, words, latent_image=own, width=0)["samples"])[0]["used"]


def test_a_prompt_that_another_node_read_is_told(klein, caplog):
    pipe, words, _ = klein
    ((tokens, settings),) = words
    _, told = inpainted(pipe, [[tokens.clone(), settings]], sky(), region())
    assert told["reference"]
    assert "is not told what to make of it, because another node" in caplog.text


def test_a_guidance_that_the_model_makes_nothing_of_is_told(klein, caplog):
    pipe, words, _ = klein
    ((tokens, settings),) = words
    sampled(pipe, [[tokens, {**settings, "guidance": 3.5}]], cfg_scale=1.0)
    assert "a guidance of 3.5, which is not used: this model has cfg_scale instead" in caplog.text


# ------------------------------------------------------------------------------------------------------- single files


def test_the_loader_takes_a_model_of_single_files(tiny_folder, tmp_path):
    files = {"transformer": "transformer", "t5": "text_encoder_2", "clip": "text_encoder"}
    given = {
        option: save_as(tmp_path / f"{option}.safetensors", part(tiny_folder, name)) for option, name in files.items()
    }
    (pipe,) = run("DiT360Loader", **{**TINY, "model_path": "the files'"}, **given)
    words = run("DiT360TextEncode", dit360_pipe=pipe, prompt=PROMPT, negative_prompt="", max_length=0)[0]
    made = levels(decoded(pipe, sampled(pipe, words)))
    right = dit360.load("tiny", device="cpu", precision="fp32").generate(PROMPT, width=WIDTH, steps=1, seed=5)
    assert np.abs(made - np.asarray(right.image, dtype=float)).max() <= 1
    assert "no transformer is chosen" in refused("DiT360Loader", **{**TINY, "model_path": "the files'"})


def save_as(file, tensors):
    save_file(tensors, file)
    return str(file)
