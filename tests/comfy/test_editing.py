"""The nodes that edit panoramas, called as ComfyUI calls them, without ComfyUI."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from called_nodes import HEIGHT, INPAINTING, SAMPLING, TINY, WIDTH, refused, region, run, sky
from dit360_comfy.laying import kept_of, latent_mask
from dit360_comfy.pictures import resized
from dit360_comfy.settings import recall
from dit360_core.errors import InputError
from dit360_core.panorama.photos import Photo
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.distance import distance
from dit360_core.sphere.views import directions, onto_sphere, project
from PIL import Image
from safetensors.torch import load_file, save_file

LOOKING = {"fov": 70.0, "yaw": 170.0, "pitch": 20.0, "roll": 10.0}


@pytest.fixture(scope="module")
def latents(pipe):
    """Of a picture, as the autoencoder has them."""
    return run("DiT360Encode", image=sky(), dit360_pipe=pipe)[0]


# -------------------------------------------------------------------------------------------- latents that carry a mask


def masked(latents, mask):
    """As ComfyUI's Set Latent Noise Mask."""
    return {**latents, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])}


def sampled(pipe, words, latents, **more):
    return run("DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image=latents, **{**SAMPLING, **more})[0]


def in_latents(mask):
    """Latents of which a pixel is masked."""
    return torch.nn.functional.max_pool2d(mask[:, None], 8)[0, 0]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"denoise": 0.5},
        {"scheduler_type": "unipc", "steps": 3, "latent_rotation": "on"},
        {"enable_yaw_loss": True, "enable_cube_loss": True, "circular_mode": "bias"},
    ],
    ids=["noise", "denoise", "another solver", "views that agree"],
)
def test_what_the_mask_of_latents_leaves_stays_and_the_rest_does_not(pipe, words, latents, more):
    mask = region()  # over the meridian
    assert mask[0, HEIGHT // 2, 0] == mask[0, HEIGHT // 2, -1] == 1
    made = sampled(pipe, words, masked(latents, mask), **more)
    off = (made["samples"] - latents["samples"]).abs().amax(dim=(0, 1))
    hole = in_latents(mask) > 0
    assert off[~hole].max() <= 1e-5  # as the autoencoder has them, in whose space numbers are larger
    assert off[hole].mean() > 0.05
    told = recall(made["samples"])[0]["used"]["hold"]
    assert told["kept"] + told["made"] == pytest.approx(1, abs=1e-3)


def test_a_soft_mask_holds_for_its_share_of_the_way_as_in_the_core(pipe, words, latents, tiny):
    from dit360_core.pipeline.holding import Hold
    from dit360_core.pipeline.stages import Latents

    mask = torch.linspace(0, 1, WIDTH // 8).expand(1, HEIGHT // 8, -1).contiguous()
    made = sampled(pipe, words, masked(latents, mask))
    own = Latents(tensor=tiny.engine.from_stored(latents["samples"]))
    core = tiny.sample(tiny.encode("a meadow"), hold=Hold(latents=own, keep=1 - mask[None]), steps=2, seed=5)
    assert torch.allclose(made["samples"], tiny.engine.to_stored(core.tensor), atol=1e-5)
    whole = sampled(pipe, words, masked(latents, (mask > 0.5).float()))
    assert (made["samples"] - whole["samples"]).abs().max() > 0.1


def test_a_mask_of_everything_is_no_mask_and_one_of_nothing_is_the_picture(pipe, words, latents):
    plain = sampled(pipe, words, latents)
    everything = sampled(pipe, words, masked(latents, torch.ones(1, HEIGHT, WIDTH)))
    assert torch.equal(everything["samples"], plain["samples"])
    # As Load Image gives it of a picture without transparency.
    nothing = sampled(pipe, words, masked(latents, torch.zeros(1, 64, 64)))
    assert torch.allclose(nothing["samples"], latents["samples"], atol=1e-5)


def test_the_mask_goes_on_as_that_of_comfyuis_sampler_does_and_decoding_takes_no_notice(pipe, words, latents):
    given = masked(latents, region())
    made = sampled(pipe, words, given)
    assert made["noise_mask"] is given["noise_mask"]
    (with_it,) = run("DiT360Decode", samples=made, dit360_pipe=pipe, auto_blend_edges=False)
    (without,) = run(
        "DiT360Decode", samples={"samples": made["samples"]}, dit360_pipe=pipe, auto_blend_edges=False
    )  # fmt: skip
    assert torch.equal(with_it, without)


def test_each_of_a_batch_has_its_own_mask(pipe, words, latents):
    two = {"samples": torch.cat([latents["samples"]] * 2)}
    made = sampled(pipe, words, masked(two, torch.cat([region(yaw=0.0), region(yaw=180.0)])), steps=1)
    off = (made["samples"] - two["samples"]).abs().amax(dim=1)
    middle = HEIGHT // 16
    assert off[0, middle, 0] < 1e-5 < off[1, middle, 0]
    assert off[1, middle, WIDTH // 16] < 1e-5 < off[0, middle, WIDTH // 16]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.eye(64)[None], "noise_mask has 64×64 pixels, and a panorama is twice as wide as high"),
        (torch.full((1, HEIGHT, WIDTH), torch.nan), "noise_mask holds numbers that are not finite"),
        (torch.rand(1, 3, HEIGHT, WIDTH), "something else for each channel"),
    ],
)
def test_a_mask_that_is_none_of_a_panorama_is_told(pipe, words, latents, mask, told):
    assert told in refused(
        "DiT360Sampler", dit360_pipe=pipe, conditioning=words, latent_image={**latents, "noise_mask": mask}, **SAMPLING
    )


# -------------------------------------------------------------------------------------------------- masks on the sphere


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (180.0, 10.0), (30.0, 90.0), (30.0, 100.0)])
def test_a_region_is_what_its_camera_sees(yaw, pitch):
    seen = project(Camera(width=1, height=1, fov=60.0, yaw=yaw, pitch=pitch), directions(HEIGHT))[1]
    assert torch.equal(region(yaw, pitch)[0], seen.float())


def test_a_region_grows_by_degrees_fades_beyond_and_joins_another():
    plain, grown = region()[0], region(grow=5.0, soften=10.0)[0]
    away = distance(plain > 0, 180.0)
    assert bool((grown[away <= 5.0] == 1).all())
    assert bool((grown[away >= 15.0] == 0).all())
    between = (away > 6) & (away < 14)
    assert torch.allclose(grown[between], 1 - (away[between] - 5) / 10, atol=1e-3)
    both = region(mask=region(yaw=0.0))[0]
    assert torch.equal(both, torch.maximum(plain, region(yaw=0.0)[0]))


def test_a_region_has_the_size_that_is_asked_or_connected(pipe):
    assert region(image=sky(), width=0).shape == (1, HEIGHT, WIDTH)
    assert region(dit360_pipe=pipe, width=0).shape == (1, 256, 512)
    assert region(width=0, height=0).shape == (1, 1024, 2048)
    assert "take 992×496, or leave height at 0" in refused(
        "DiT360RegionMask", yaw=0.0, pitch=0.0, fov=60.0, grow=0.0, soften=0.0, width=1000, height=500
    )


def test_growing_a_mask_goes_on_behind_the_meridian_and_the_poles_and_shrinking_undoes_it():
    at_the_edge = torch.zeros(1, HEIGHT, WIDTH)
    at_the_edge[0, 30:34, :2] = 1
    (grown,) = run("DiT360GrowMask", mask=at_the_edge, grow=8.0, soften=0.0, invert=False)
    assert grown[0, HEIGHT // 2, -2:].min() == 1
    (turned,) = run("DiT360GrowMask", mask=at_the_edge.roll(40, -1), grow=8.0, soften=0.0, invert=False)
    assert torch.equal(turned, grown.roll(40, -1))
    (back,) = run("DiT360GrowMask", mask=grown, grow=-8.0, soften=0.0, invert=False)
    assert back.sum() == pytest.approx(at_the_edge.sum(), rel=0.5)
    assert bool((grown[back > 0] == 1).all())
    (inverted,) = run("DiT360GrowMask", mask=at_the_edge, grow=0.0, soften=0.0, invert=True)
    assert torch.equal(inverted, 1 - at_the_edge)
    (larger,) = run("DiT360GrowMask", mask=at_the_edge, grow=0.0, soften=0.0, invert=False, image=sky(2 * HEIGHT))
    assert larger.shape == (1, 2 * HEIGHT, 2 * WIDTH)
    assert "twice as wide as high" in refused(
        "DiT360GrowMask", mask=torch.eye(64)[None], grow=1.0, soften=0.0, invert=False
    )


@pytest.mark.parametrize("size", [(256, 128), (64, 32), (100, 50), (144, 72), (2, 1)])
def test_a_picture_of_another_size_is_resized_around_the_meridian(size):
    smooth = sky()[0].permute(2, 0, 1)
    found = resized(smooth, size)
    assert tuple(found.shape) == (3, size[1], size[0])
    # Three times around is as far as any interpolation looks.
    around = torch.nn.functional.interpolate(
        torch.cat([smooth] * 3, -1)[None], (size[1], 3 * size[0]), mode="bicubic", antialias=True
    )  # fmt: skip
    assert torch.allclose(found, around[0, :, :, size[0] : 2 * size[0]].clamp(0, 1), atol=1e-5)


def test_latents_for_other_samplers_have_a_mask_that_goes_on_over_the_edge():
    edge = torch.zeros(1, HEIGHT, WIDTH)
    edge[0, 24:32, :8] = 1
    mask = latent_mask(sky(), edge, 25.0)
    assert mask.shape == (1, 1, HEIGHT // 8, WIDTH // 8)
    assert mask[0, 0, 3, [0, -1]].tolist() == [1, 1]
    assert torch.equal(latent_mask(sky(), edge.roll(40, -1), 25.0), mask.roll(5, -1))
    assert torch.equal(latent_mask(sky(), edge, 0.0)[0, 0], in_latents(edge))
    # A photo is held to its edges, and nothing of that grows into it.
    image, hole = placed(photo())
    of_photo = latent_mask(image, hole, 25.0)
    assert bool((of_photo < 1).any())
    assert float(of_photo.mean()) < float(latent_mask(image, hole.clone(), 25.0).mean())
    with pytest.raises(InputError, match="take 992×496"):
        latent_mask(torch.rand(1, 500, 1000, 3), edge, 0.0)


# ---------------------------------------------------------------------------------------------------------------- views


def test_a_view_is_put_back_where_it_was_and_nothing_else_changes(caplog):
    panorama = sky()
    seen, mask, camera = run("DiT360PanoramaToView", panorama=panorama, **LOOKING, width=192, height=128)
    assert seen.shape == (1, 128, 192, 3)
    assert not mask.any()
    back, where = run(
        "DiT360ViewToPanorama", panorama=panorama, view=1 - seen, **{**LOOKING, "yaw": 0.0}, feather=4.0, camera=camera
    )
    assert torch.equal(back[where == 0], panorama[where == 0])
    assert 0.02 < float((where > 0).float().mean()) < 0.3
    assert (back[where == 1] - (1 - panorama[where == 1])).abs().max() < 0.02
    # By angles instead of the camera, and without an edit.
    given = {"panorama": panorama, **LOOKING, "feather": 4.0}
    same, _ = run("DiT360ViewToPanorama", view=seen, **given, only_changes=False)
    assert 0 < (same - panorama).abs().max() < 0.02
    eight = (seen * 255).round() / 255
    assert torch.equal(run("DiT360ViewToPanorama", view=eight, **given)[0], panorama)
    # What changed, and no more than a feather around it.
    spotted = seen.clone()
    spotted[0, 40:60, 40:60] = 0.0
    spot, around = run("DiT360ViewToPanorama", view=spotted, **given)
    assert 0 < float((around > 0).float().sum()) < 0.5 * float((where > 0).float().sum())
    assert torch.equal(spot[around == 0], panorama[around == 0])
    assert spot.amax(-1)[around == 1].min() < 0.05
    # Only what is masked.
    left = torch.zeros(1, 128, 192)
    left[..., :96] = 1
    half, there = run(
        "DiT360ViewToPanorama", panorama=panorama, view=1 - seen, **LOOKING, feather=2.0, camera=camera, mask=left
    )
    assert 0.3 < float(there.sum() / where.sum()) < 0.7
    assert torch.equal(half[there == 0], panorama[there == 0])
    # The empty mask of a panorama that has none masks nothing, which nobody means.
    none, _ = run("DiT360ViewToPanorama", panorama=panorama, view=1 - seen, **LOOKING, feather=2.0, mask=mask)
    assert torch.equal(none, panorama)
    assert "mask covers nothing of the view" in caplog.text


def test_a_view_shows_a_mask_too_and_may_be_as_sharp_as_the_panorama():
    _, mask, _ = run(
        "DiT360PanoramaToView", panorama=sky(), fov=90.0, yaw=180.0, pitch=0.0, roll=0.0, width=0, height=0,
        mask=region(fov=45.0),
    )  # fmt: skip
    # 2·tan(45°) of a radian, which has 64 / π pixels: 41, in multiples of 16.
    assert mask.shape == (1, 48, 48)
    assert mask[0, 24, 24] == 1
    half = np.tan(np.radians(22.5)) / 2  # of the view's width
    assert mask[0].mean() == pytest.approx((2 * half) ** 2, rel=0.1)


def test_a_view_of_another_shape_than_its_camera_saw_is_told():
    panorama = sky()
    _, _, camera = run("DiT360PanoramaToView", panorama=panorama, **LOOKING, width=64, height=64)
    given = {"panorama": panorama, **LOOKING, "feather": 2.0, "camera": camera}
    told = refused("DiT360ViewToPanorama", view=torch.rand(1, 64, 96, 3), **given)
    assert "view has 96×64 pixels, and its camera saw 64×64" in told
    upscaled, _ = run("DiT360ViewToPanorama", view=torch.rand(1, 128, 128, 3), **given)
    assert upscaled.shape == panorama.shape


# --------------------------------------------------------------------------------------------------------------- photos


def photo(width: int = 96, height: int = 64) -> torch.Tensor:
    """IMAGE of a view of the sky."""
    return run("DiT360PanoramaToView", panorama=sky(2 * HEIGHT), **LOOKING, width=width, height=height)[0]


def inside(mask):
    """What of a panorama lies within photos: a little around them is not to be made anew either."""
    return distance(mask[0] > 0, 180.0) > 4.5 * 360 / WIDTH


def placed(image, **more):
    return run("DiT360PhotoToPanorama", image=image, **{**LOOKING, "width": WIDTH, "height": 0, **more})


def test_a_photo_lies_where_the_core_lays_it_and_what_is_around_it_is_masked_and_filled(tiny):
    from dit360_core.pipeline.editing.canvas import canvas_of
    from dit360_core.pipeline.editing.given import given

    image, mask = placed(photo())
    own = Image.fromarray((photo()[0] * 255).round().byte().numpy())
    canvas = canvas_of(given(photos=Photo(own, **LOOKING)), (WIDTH, HEIGHT))
    assert torch.equal(image[0].permute(2, 0, 1), canvas.pixels[0])
    assert torch.equal(mask[0], canvas.made)
    assert (image - sky())[0][inside(mask)].abs().max() < 0.03
    assert 0.5 < float(mask.mean()) < 1


def test_other_nodes_take_a_photo_s_panorama_for_any_picture():
    image, _ = placed(photo())
    assert recall(image) == ({},)
    (same,) = run(
        "Equirect360Process", image=image, enforce_2_1_ratio=True, fix_mode="none", blend_edges=False, blend_width=10,
        blend_mode="cosine",
    )  # fmt: skip
    assert torch.equal(same, image)


def test_what_a_photo_does_not_show_is_made_anew():
    cut = torch.zeros(1, 64, 96)
    cut[..., :48] = 1  # the left half is transparent
    whole, left_out = placed(photo())[1], placed(photo(), photo_mask=cut)[1]
    assert float((left_out == 0).sum()) < 0.8 * float((whole == 0).sum())
    assert torch.equal(placed(photo(), photo_mask=torch.zeros(1, 64, 64))[1], whole)
    told = "photo_mask covers all of the photo"
    assert told in refused("DiT360PhotoToPanorama", image=photo(), **LOOKING, width=WIDTH, height=0, photo_mask=cut + 1)
    told = "photo_mask has 64×64 pixels, and its picture 96×64"
    given = {"image": photo(), **LOOKING, "width": WIDTH, "height": 0}
    assert told in refused("DiT360PhotoToPanorama", **given, photo_mask=torch.eye(64)[None])


def test_a_second_photo_joins_the_first_as_if_both_were_given_at_once():
    beside = {**LOOKING, "yaw": -140.0}
    first, hole = placed(photo())
    other = run("DiT360PanoramaToView", panorama=sky(2 * HEIGHT), **beside, width=96, height=64)[0]
    both, mask = placed(other, **{**beside, "width": 0}, panorama=first, mask=hole)
    assert both.shape == (1, HEIGHT, WIDTH, 3)
    assert (both - sky())[0][inside(mask)].abs().max() < 0.03
    assert float((mask == 0).sum()) > 1.3 * float((hole == 0).sum())
    assert "photo 2 shows nothing new" in refused(
        "DiT360PhotoToPanorama", image=photo(), **LOOKING, width=0, height=0, panorama=first, mask=hole
    )


def test_a_photo_joins_any_panorama_with_a_mask_or_without():
    panorama = sky()
    image, mask = placed(photo(), panorama=panorama, mask=region(yaw=0.0), width=0)
    assert mask[0, HEIGHT // 2, WIDTH // 2] == 1
    pasted = kept_of(mask, 0).paste == 1
    assert pasted.any()
    assert (image - panorama)[0][pasted].abs().max() < 0.05
    begun, all_but = placed(photo(), panorama=panorama, width=0)
    assert float(all_but.mean()) > 0.5
    assert (begun - panorama).abs().max() < 0.05
    larger, around = placed(photo(), panorama=panorama, mask=region(yaw=0.0), width=2 * WIDTH)
    assert (larger.shape, around.shape) == ((1, 2 * HEIGHT, 2 * WIDTH, 3), (1, 2 * HEIGHT, 2 * WIDTH))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"fov": 180.0}, "fov is 180.0, but must be 1.0 … 179.0"),
        ({"fov": 0.0}, "fov is 0.0, but must be 1.0 … 179.0"),
        ({"width": 1000, "height": 500}, "take 992×496"),
        ({"image": torch.rand(1, 8, 8, 2)}, "image has the shape (1, 8, 8, 2), but must be pictures in RGB"),
        ({"panorama": torch.rand(1, 64, 64, 3)}, "panorama has 64×64 pixels, and a panorama is twice as wide as high"),
        ({"mask": torch.rand(1, 64, 128)}, "no panorama is connected"),
    ],
)
def test_photos_that_cannot_be_placed_are_told(more, told):
    assert told in refused(
        "DiT360PhotoToPanorama", **{"image": photo(), **LOOKING, "width": WIDTH, "height": 0, **more}
    )


# ----------------------------------------------------------------------------------------------------------- inpainting


def inpainted(pipe, words, image, mask, **more):
    return run(
        "DiT360Inpaint", dit360_pipe=pipe, conditioning=words, image=image, mask=mask, **{**INPAINTING, **more}
    )  # fmt: skip


def test_a_part_is_made_anew_as_the_core_makes_it(pipe, words, tiny):
    panorama, mask = sky(), region()
    latents, where = inpainted(pipe, words, panorama, mask, blur_radius=16, blend_mode="linear")
    (image,) = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)
    (pasted,) = run(
        "DiT360PasteBack", image=image, original=panorama, mask=where, match_colours=True, feather=-1.0
    )  # fmt: skip
    own = Image.fromarray((panorama[0] * 255).round().byte().numpy())
    hole = Image.fromarray((mask[0] * 255).byte().numpy())
    core = tiny.generate("a meadow", image=own, mask=hole, steps=2, seed=5)
    assert np.abs((pasted[0].numpy() * 255).round() - np.asarray(core.image, dtype=float)).max() <= 1
    told = recall(latents["samples"])[0]["used"]["hold"]
    assert {name: told[name] for name in ("kept", "made", "mask_grow", "mask_soften")} == {
        name: core.settings["used"]["hold"][name] for name in ("kept", "made", "mask_grow", "mask_soften")
    }
    # What was kept is the original's, bit for bit, and what was made is not.
    far = distance(where[0] > 0, 180.0) > 9 * 360 / WIDTH
    assert 0.1 < float(far.float().mean()) < 0.9
    assert torch.equal(pasted[0][far], panorama[0][far])
    assert (pasted - panorama)[0][mask[0] > 0].abs().mean() > 0.05


def test_a_photo_becomes_the_panorama_that_the_core_makes_of_it(pipe, words, tiny):
    image, mask = placed(photo())
    latents, where = inpainted(pipe, words, image, mask)
    (decoded,) = run("DiT360Decode", samples=latents, dit360_pipe=pipe, auto_blend_edges=False)
    (pasted,) = run(
        "DiT360PasteBack", image=decoded, original=image, mask=where, match_colours=True, feather=-1.0
    )  # fmt: skip
    own = Image.fromarray((photo()[0] * 255).round().byte().numpy())
    core = tiny.generate("a meadow", photo=Photo(own, **LOOKING), width=WIDTH, steps=2, seed=5)
    assert np.abs((pasted[0].numpy() * 255).round() - np.asarray(core.image, dtype=float)).max() <= 1
    assert recall(latents["samples"])[0]["used"]["hold"]["photos"][0]["yaw"] == 170.0


def test_a_share_of_the_part_is_made_anew_from_what_is_there(pipe, words):
    panorama, mask = sky(), region()
    new, _ = inpainted(pipe, words, panorama, mask)
    some, _ = inpainted(pipe, words, panorama, mask, denoise=0.3)
    own = run("DiT360Encode", image=panorama, dit360_pipe=pipe)[0]["samples"]
    hole = in_latents(mask) > 0
    off = [(made["samples"] - own).abs().amax(dim=(0, 1))[hole].mean() for made in (new, some)]
    assert 0 < off[1] < 0.8 * off[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": torch.rand(1, 64, 64, 3)}, "image has 64×64 pixels, and a panorama is twice as wide as high"),
        ({"image": torch.rand(1, 500, 1000, 3)}, "take 992×496"),
        ({"mask": torch.eye(64)[None]}, "mask has 64×64 pixels"),
        ({"blur_radius": 51}, "blur_radius is 51, but must be 0 … 50"),
        ({"blend_mode": "bar"}, "blend_mode is 'bar'"),
        ({"denoise": 0.001}, "denoise is 0.001, but must be 0, or 0.01 … 1"),
        ({"scheduler_type": "eular"}, "no scheduler named 'eular'"),
    ],
)
def test_what_cannot_be_made_anew_is_told(pipe, words, change, told):
    given = {"dit360_pipe": pipe, "conditioning": words, "image": sky(), "mask": region(), **INPAINTING, **change}
    assert told in refused("DiT360Inpaint", **given)


def test_a_mask_of_nothing_or_of_everything_is_told_and_done(pipe, words, caplog):
    panorama = sky()
    latents, where = inpainted(pipe, words, panorama, torch.zeros(1, 64, 64), steps=1)
    assert "keeps all of the picture" in caplog.text
    assert not where.any()
    own = run("DiT360Encode", image=panorama, dit360_pipe=pipe)[0]["samples"]
    assert torch.allclose(latents["samples"], own, atol=1e-5)
    inpainted(pipe, words, panorama, torch.ones(2, HEIGHT, WIDTH), steps=1)
    assert "mask is a batch of 2, and image of 1; the rest is left out" in caplog.text
    assert "keeps nothing" in caplog.text


# --------------------------------------------------------------------------------------------------------- pasting back


def test_what_was_kept_is_pasted_back_bit_for_bit_and_fades_within_the_feather():
    own, made = sky(), 1 - sky()
    (pasted,) = run(
        "DiT360PasteBack", image=made, original=own, mask=region(), match_colours=False, feather=10.0
    )  # fmt: skip
    away = distance(region()[0] > 0, 180.0)
    assert torch.equal(pasted[0][away > 11], own[0][away > 11])
    assert torch.equal(pasted[0][away == 0], made[0][away == 0])
    (hard,) = run("DiT360PasteBack", image=made, original=own, mask=region(), match_colours=False, feather=0.0)
    assert torch.equal(hard[0], torch.where(region()[0][..., None] > 0, made[0], own[0]))


def test_colours_at_the_rim_are_brought_to_what_was_made():
    own = sky()
    made = (own + 0.1).clamp(0, 1)
    plain, matched = (
        run("DiT360PasteBack", image=made, original=own, mask=region(), match_colours=match, feather=0.0)[0]
        for match in (False, True)
    )
    away = distance(region()[0] == 0, 180.0)
    rim, deep = (away > 0) & (away < 4), away > 20
    off = [(one - own)[0][rim].abs().mean() for one in (plain, matched)]
    assert off[1] < 0.5 * off[0]
    assert bool(deep.any())


@pytest.mark.parametrize("feather", [-1.0, 0.0, 2.0])
def test_nothing_that_was_filled_in_around_a_photo_is_pasted(feather):
    image, mask = placed(photo())
    made = torch.full_like(image, 2.0)  # no pixel of a picture
    (pasted,) = run("DiT360PasteBack", image=made, original=image, mask=mask, match_colours=False, feather=feather)
    shows = onto_sphere(torch.ones(1, 64, 96), Camera(width=96, height=64, **LOOKING), HEIGHT)[1] == 1
    changed = (pasted[0] != 2.0).any(-1)
    assert bool(changed.any())
    assert not bool((changed & ~shows).any())


def test_an_original_of_another_size_is_resized_and_a_photo_laid_anew():
    image, mask = placed(photo(192, 128))
    made = torch.zeros(1, 2 * HEIGHT, 2 * WIDTH, 3)
    (pasted,) = run("DiT360PasteBack", image=made, original=image, mask=mask, match_colours=False, feather=-1.0)
    sharp, _ = placed(photo(192, 128), width=2 * WIDTH)
    same = ((pasted - sharp).abs() < 0.51 / 255).all(-1)[0]
    assert 0.02 < float(same.float().mean()) < 0.5
    (resized,) = run(
        "DiT360PasteBack", image=made, original=sky(), mask=region(), match_colours=False, feather=-1.0
    )  # fmt: skip
    far = region(grow=40.0, width=2 * WIDTH)[0] == 0
    assert (resized - sky(2 * HEIGHT))[0][far].abs().max() < 0.02


# --------------------------------------------------------------------------------------------------- a model that fills


@pytest.fixture(scope="module")
def filling(tiny_folder, tmp_path_factory):
    """The embedded model, whose transformer is given a picture and its mask too, and takes no notice of them."""
    made = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("fill") / "model"))
    for file, changed in (
        ("model_index.json", {"_class_name": "FluxFillPipeline"}),
        ("transformer/config.json", {"in_channels": 512, "out_channels": 128}),
    ):
        (made / file).write_text(json.dumps({**json.loads((made / file).read_text()), **changed}))
    file = made / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    # Something of the grey picture, so that it is seen whether it is there.
    wide = torch.nn.functional.pad(tensors["x_embedder.weight"], (0, 384))
    wide[:, 128:256] = 0.1 * wide[:, :128]
    tensors["x_embedder.weight"] = wide
    save_file(tensors, file)
    return run("DiT360Loader", **TINY, custom_model=str(made))[0]


def test_a_model_that_fills_is_shown_the_picture_by_mask_or_by_conditioning(filling, latents):
    words = run("DiT360TextEncode", dit360_pipe=filling, prompt="a meadow", negative_prompt="", max_length=0)[0]
    mask = region()
    by_mask = sampled(filling, words, masked(latents, mask), steps=1)
    told = recall(by_mask["samples"])[0]["used"]
    assert told["hold"]["kept"] > 0.5
    hole = in_latents(mask) > 0
    assert (by_mask["samples"] - latents["samples"]).abs().amax(dim=(0, 1))[~hole].max() <= 1e-5
    # As Inpaint Model Conditioning gives it: another picture with another hole is another panorama.
    ((tokens, settings),) = words
    other = [[tokens, {**settings, "concat_latent_image": 0 * latents["samples"], "concat_mask": mask}]]
    by_words = sampled(filling, other, masked(latents, mask), steps=1)
    assert (by_words["samples"] - by_mask["samples"]).abs().max() > 1e-3
    made, _ = inpainted(filling, words, sky(), mask, steps=1)
    assert recall(made["samples"])[0]["used"]["hold"]["kept"] > 0.5
    assert "This model fills a part of a picture, and none is given; use DiT360 Inpaint" in refused(
        "DiT360Sampler", dit360_pipe=filling, conditioning=words, **{**SAMPLING, "steps": 1}
    )


def test_other_models_take_no_notice_of_what_is_for_models_that_fill(pipe, words, latents):
    ((tokens, settings),) = words
    other = [[tokens, {**settings, "concat_latent_image": latents["samples"], "concat_mask": region()}]]
    with_it = sampled(pipe, other, masked(latents, region()), steps=1)
    assert torch.equal(with_it["samples"], sampled(pipe, words, masked(latents, region()), steps=1)["samples"])


def test_inputs_are_those_that_workflows_know():
    with pytest.raises(InputError, match="of another node pack"):
        run("DiT360Inpaint", dit360_pipe={}, conditioning=[], image=sky(), mask=region(), **INPAINTING)
