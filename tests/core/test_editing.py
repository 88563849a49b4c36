"""A picture is edited, a photo becomes a panorama: what is kept, what is made, and what comes back of the pixels."""

import io
import logging

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.options import EditOptions, SampleOptions
from dit360_core.panorama.gpano import Area
from dit360_core.panorama.masks import as_mask
from dit360_core.panorama.photos import Photo, Place
from dit360_core.panorama.picture import Panorama, encoded
from dit360_core.pipeline.editing.canvas import canvas_of
from dit360_core.pipeline.editing.given import given
from dit360_core.pipeline.editing.pasting import pasted
from dit360_core.pipeline.planes import pixels_of
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.views import directions, view
from PIL import Image, ImageChops, ImageDraw

SIZE = (256, 128)
ASKED = {"seed": 3, "steps": 2}
SAMPLING = SampleOptions(prompt="a forest")


def scene(size=SIZE):
    """Smooth, of all tones, and seamless."""
    x, y, z = directions(size[1]).unbind(-1)
    pixels = torch.stack([0.5 + 0.4 * x, 0.5 + 0.35 * y * z, 0.5 - 0.4 * z + 0.05 * torch.sin(20 * y)], -1)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())


SCENE = scene()


def mask_of(*boxes, size=SIZE):
    mask = Image.new("L", size)
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


MASKS = {
    "in the middle": mask_of((100, 40, 150, 80)),
    "over the meridian": mask_of((0, 40, 20, 80), (236, 40, 255, 80)),
    "over a pole": mask_of((0, 0, 255, 12)),
    "over both poles": mask_of((30, 0, 60, 10), (90, 118, 200, 127)),
}
HOLE = MASKS["over the meridian"]


def rolled(image, columns):
    return ImageChops.offset(image, columns, 0)


def photo_of(camera, panorama=SCENE, **options):
    """What a camera sees of a panorama, at twice the panorama's own sharpness."""
    seen = view(pixels_of(panorama), camera).clamp(0, 1)
    image = Image.fromarray((seen.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    return Photo(image, fov=camera.fov, yaw=camera.yaw, pitch=camera.pitch, roll=camera.roll, **options)


def canvas(image=SCENE, mask=None, photos=None, size=SIZE, **options):
    return canvas_of(given(image, mask, photos, EditOptions(**options)), size)


# ----------------------------------------------------------------------------------------------- what is kept and made


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("latents", [1, 13, -8])
def test_a_rolled_mask_keeps_the_same_rolled_bit_for_bit(name, latents):
    still, moved = canvas(mask=MASKS[name]), canvas(rolled(SCENE, 8 * latents), rolled(MASKS[name], 8 * latents))
    assert torch.equal(moved.keep, still.keep.roll(latents, -1))
    for part in ("made", "paste"):
        assert torch.equal(getattr(moved, part), getattr(still, part).roll(8 * latents, -1))


@pytest.mark.parametrize("name", MASKS)
def test_white_is_made_and_what_is_far_is_kept(name):
    made, white = canvas(mask=MASKS[name]).made, torch.from_numpy(np.array(MASKS[name])) == 255
    assert (made[white] == 1).all()
    assert not canvas(mask=MASKS[name]).paste[white].any()
    # 24 pixels of growth and softness: no row is farther away than that from a mask's upper or lower edge.
    assert (made == 0).float().mean() > 0.25


def test_growth_and_softness_are_degrees_of_arc_at_a_pole_too():
    """From the rim of a cap around the upper pole: 10 degrees of growth, 10 of softness, on every meridian."""
    cap = mask_of((0, 0, 255, 31))  # to 44.6 degrees from the pole
    made = canvas(mask=cap, mask_grow=10.0, mask_soften=10.0).made
    assert torch.equal(made, made[:, :1].expand_as(made))
    step = 180 / 128
    for row in range(128):
        beyond = (row - 31) * step
        if beyond < 10:
            assert made[row, 0] == 1
        elif beyond > 20:
            assert made[row, 0] == 0
        else:
            assert made[row, 0] == pytest.approx(1 - (beyond - 10) / 10, abs=0.01)


def test_a_hard_edge_is_one():
    made = canvas(mask=HOLE, mask_grow=0.0, mask_soften=0.0).made
    assert set(made.unique().tolist()) == {0.0, 1.0}
    assert (made[40:81, :21] == 1).all()
    assert not made[:38].any()


def test_a_mask_that_means_keep_is_the_other_part():
    made = canvas(mask=ImageChops.invert(HOLE), mask_means="keep").made
    assert torch.equal(made, canvas(mask=HOLE).made)


def test_greys_are_made_anew_to_their_share_and_pasted_nowhere():
    grey = HOLE.point(lambda level: level * 0.3)
    found = canvas(mask=grey)
    assert found.made[60, 5] == pytest.approx(0.3 * 255 // 1 / 255, abs=0.03)
    assert not found.paste[45:75, :16].any()


def test_transparency_is_a_mask():
    see_through = SCENE.convert("RGBA")
    see_through.putalpha(ImageChops.invert(HOLE))
    found = canvas(see_through)
    assert torch.equal(found.made, canvas(mask=HOLE).made)
    assert found.told["transparency"] is True


def test_a_region_is_the_view_of_a_square_camera():
    found = canvas(region="-170,20,60", mask_grow=0.0, mask_soften=0.0)
    seen = directions(SIZE[1])
    from dit360_core.sphere.views import project

    inside = project(Camera(width=1, height=1, fov=60, yaw=-170, pitch=20), seen)[1]
    assert torch.equal(found.made == 1, inside)


@pytest.mark.parametrize("region", ["0,90,40", "30,-90,50", "0,100,40", "540,-380,40"])
def test_a_region_beyond_a_pole_wraps(region):
    assert 0.01 < float((canvas(region=region).made == 1).float().mean()) < 0.5


def test_a_region_over_a_pole_is_the_same_whichever_way_it_is_said():
    assert torch.equal(canvas(region="0,100,40").made, canvas(region="180,80,40").made)


# ------------------------------------------------------------------------------------------------------------ photos

AHEAD = Camera(width=200, height=150, fov=80, yaw=170, pitch=-10, roll=15)


def test_a_photo_lies_where_its_camera_looked_and_its_surroundings_go_on_from_it():
    found = canvas(None, photos=photo_of(AHEAD))
    core = found.paste == 1
    assert 0.05 < float(core.float().mean()) < 0.25
    picture, truth = pixels_of(found.picture.image), pixels_of(SCENE)
    assert (picture - truth)[:, core].abs().max() <= 0.03
    assert (picture - truth).abs().mean() <= 0.35
    assert not (picture == 0).all(0).any(), "nothing is left black"


def test_a_photo_is_held_to_its_edge():
    found = canvas(None, photos=photo_of(AHEAD))
    whole = found.paste > 0
    assert (found.made[whole] == 0).all()


def test_photos_that_overlap_agree_with_the_panorama_they_show():
    cameras = [attrs.evolve(AHEAD, yaw=yaw, roll=roll) for yaw, roll in ((-40, 0), (10, 25), (60, -10))]
    found = canvas(None, photos=[photo_of(camera) for camera in cameras])
    one = canvas(None, photos=photo_of(cameras[0]))
    assert float((found.paste == 1).float().mean()) > 1.5 * float((one.paste == 1).float().mean())
    core = found.paste == 1
    assert (pixels_of(found.picture.image) - pixels_of(SCENE))[:, core].abs().max() <= 0.03


def test_where_photos_overlap_the_one_whose_middle_is_nearer_counts_more():
    red, blue = (
        Photo(Image.new("RGB", (100, 100), colour), fov=90, yaw=yaw) for colour, yaw in (("red", -30), ("blue", 30))
    )
    pixels = pixels_of(canvas(None, photos=[red, blue]).picture.image)
    shares = pixels[0, 64, 118:138].tolist()
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.75 > 0.25 > shares[-1]
    assert (shares[9] + shares[10]) / 2 == pytest.approx(0.5, abs=0.02)


def test_photos_one_above_the_other_pass_into_each_other_without_a_step():
    """3:2, whose long edges cross each other's pictures, and a part of a panorama across both."""
    bright, dark = Image.new("RGB", (90, 60), (200, 0, 0)), Image.new("RGB", (90, 60))
    part = Photo(
        Image.new("RGB", (60, 30), (100, 0, 0)),
        place=Place(size=SIZE, area=Area(left=110, top=40, width=60, height=30)),
    )
    for photos in (
        [Photo(bright, fov=65), Photo(dark, fov=65, pitch=30)],
        [Photo(bright, fov=65), part],
        [part, Photo(dark, fov=65, roll=40, yaw=10)],
    ):
        found = canvas(None, photos=photos, size=(512, 256))
        red = pixels_of(found.picture.image)[0]
        core = found.paste == 1
        for steps, both in (
            ((red - red.roll(1, -1)).abs(), core & core.roll(1, -1)),
            ((red[1:] - red[:-1]).abs(), core[1:] & core[:-1]),
        ):
            # Where two edges cross, one photo's end is the other's, and there is no way around.
            assert steps[both].max() <= 45 / 255
            assert (steps[both] > 20 / 255).sum() <= 40


def test_a_photo_within_what_is_kept_has_a_ring_around_it_that_is_made():
    """Or it would end in a step: neither picture knows of the other."""
    found = canvas(mask=HOLE, photos=Photo(Image.new("RGB", (100, 100), "red"), fov=40))
    row = found.made[64]
    inside = found.paste[64] == 1
    assert inside[128]
    right = int((~inside[128:]).nonzero()[0, 0]) + 128
    assert row[right : right + 24].max() > 0.8
    assert not found.paste[64, right + 2 : right + 8].all()
    assert found.paste[64, 60] == 1
    # What is held around the photo was filled in between the two, and holds no step.
    around = pixels_of(found.picture.image)[:, 64, 128:190]
    inside, outside = pixels_of(SCENE)[:, 64, 189], torch.tensor([1.0, 0, 0])
    steps = (around[:, 1:] - around[:, :-1]).abs().max()
    assert steps <= 0.4 * (inside - outside).abs().max()


def test_a_cut_out_photo_shows_nothing_of_what_was_cut_away():
    cut = Image.new("RGBA", (120, 80), (255, 255, 255, 0))
    cut.paste((200, 30, 30, 255), (30, 20, 90, 60))
    found = canvas(None, photos=Photo(cut, fov=70))
    whole = canvas(None, photos=Photo(cut.convert("RGB"), fov=70))
    core = found.paste == 1
    assert 0.1 < float(core.float().mean() / (whole.paste == 1).float().mean()) < 0.35
    red = pixels_of(found.picture.image)[:, core] * 255
    assert (red.round() == torch.tensor([200.0, 30, 30])[:, None]).all()
    assert pixels_of(found.picture.image)[1].max() < 0.3, "the white that was hidden is nowhere"


def test_a_part_of_a_panorama_keeps_its_direction():
    pose = attrs.evolve(Panorama(image=SCENE).pose, heading=120.0)
    part = Photo(
        SCENE.crop((60, 30, 160, 90)),
        pose=pose,
        place=Place(size=SIZE, area=Area(left=60, top=30, width=100, height=60)),
    )
    assert canvas(None, photos=part).picture.pose.heading == 120.0


def test_a_region_smaller_than_a_pixel_is_the_pixel_it_lies_in():
    assert canvas(region="33,-12,0.001", mask_grow=0.0, mask_soften=0.0).made.sum() == 1


def test_a_model_that_fills_is_shown_what_is_known_and_nothing_that_was_filled_in():
    photo = photo_of(AHEAD)
    found = canvas(None, photos=photo)
    whole = canvas(None, photos=photo, mask_soften=0.0).paste > 0
    assert (found.unknown[whole] == 0).all()
    assert float((found.unknown == 0).float().mean()) <= 1.1 * float(whole.float().mean())
    edit = canvas(mask=HOLE)
    assert (edit.unknown[edit.paste > 0] == 0).all()
    assert (edit.unknown[np.asarray(HOLE) == 255] == 1).all()


def test_a_photo_on_a_picture_replaces_what_is_there_and_the_mask_says_what_is_made():
    other = Photo(Image.new("RGB", (100, 100), "red"), fov=40)
    found = canvas(mask=HOLE, photos=other)
    pixels = pixels_of(found.picture.image)
    assert (pixels[:, 64, 128] == torch.tensor([1.0, 0, 0])).all()
    assert torch.equal(pixels[:, 60, 60], pixels_of(SCENE)[:, 60, 60])
    assert found.made[60, 5] == 1


def test_a_part_of_a_panorama_lies_where_it_is_said_to_bit_for_bit():
    """Over the meridian."""
    area = Area(left=200, top=30, width=100, height=60)
    part = rolled(SCENE, -200).crop((0, 30, 100, 90))
    found = canvas(None, photos=Photo(part, place=Place(size=SIZE, area=area)))
    core = found.paste == 1
    assert float(core.float().mean()) > 0.08
    assert torch.equal(pixels_of(found.picture.image)[:, core], pixels_of(SCENE)[:, core])
    columns = torch.cat([torch.arange(200, 256), torch.arange(44)])
    outside = torch.ones(128, 256, dtype=torch.bool)
    outside[30:90, columns] = False
    assert not found.paste[outside].any()


# ------------------------------------------------------------------------------------------------------------- pasting


@pytest.mark.parametrize("match", [True, False])
def test_what_is_kept_has_its_own_pixels_and_what_is_made_is_the_models(match):
    found = canvas(mask=MASKS["in the middle"])
    decoded = torch.rand(1, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(1))
    result = pasted(decoded, found, match=match)
    core = found.paste == 1
    assert torch.equal((result[0][:, core] * 255).round(), (pixels_of(SCENE)[:, core] * 255).round())
    if not match:
        assert torch.equal(result[0][:, found.paste == 0], decoded[0][:, found.paste == 0])


def test_a_difference_in_tone_at_the_rim_is_carried_on_and_fades():
    """What was made is darker by a tenth: at the rim as bright as what is kept, far from it as it was made."""
    size = (1024, 512)
    large = scene(size)
    found = canvas(large, mask_of((300, 100, 800, 400), size=size), size=size)
    darker = pixels_of(large)[None] * 0.9
    with_match, without = (pasted(darker, found, match=match)[0] for match in (True, False))
    first = int((found.paste[250] == 0).nonzero()[0, 0])
    beside = (slice(None), 250, slice(first, first + 6))
    matched, as_made = ((pixels - pixels_of(large))[beside].abs().mean() for pixels in (with_match, without))
    assert matched < 0.35 * as_made
    assert torch.allclose(with_match[:, 250, 550], darker[0, :, 250, 550], atol=2e-3)


def test_pasting_rolls():
    decoded = torch.rand(1, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(1))
    still = pasted(decoded, canvas(mask=HOLE), match=True)
    moved = pasted(decoded.roll(40, -1), canvas(rolled(SCENE, 40), rolled(HOLE, 40)), match=True)
    assert (moved.roll(-40, -1) - still).abs().max() <= 1e-5


# ------------------------------------------------------------------------------------------------------------ pictures


def same(one, other, where):
    one, other = (np.asarray(image.convert("RGB")) for image in (one, other))
    return bool((one == other)[where].all())


@pytest.fixture(scope="module")
def edited(tiny):
    """An edit over the meridian, whose picture is not of this model's making."""
    return tiny.generate("a forest", image=SCENE, mask=HOLE, **ASKED)


def test_an_edit_keeps_the_core_bit_for_bit_and_makes_the_rest(edited):
    read = Image.open(io.BytesIO(encoded(edited, "PNG", 90)))
    found = canvas(mask=HOLE)
    core, hole = (found.paste == 1).numpy(), np.asarray(HOLE) == 255
    assert core.mean() > 0.5
    assert same(read, SCENE, core)
    apart = np.abs(np.asarray(read.convert("RGB"), int) - np.asarray(SCENE, int))[hole]
    assert apart.mean() > 3
    # At the meridian, which the hole lies over, no more than between its other columns.
    steps = np.abs(np.diff(np.roll(np.asarray(read.convert("RGB"), float), 20, 1)[40:80, :40], axis=1)).mean((0, 2))
    assert steps[19] < 2 * steps.mean()


def test_an_edit_tells_what_was_kept(edited):
    told = edited.settings["used"]["hold"]
    assert told["mask"] == [256, 128]
    assert told["kept"] + told["made"] < 1
    assert (told["mask_grow"], told["mask_soften"], told["paste_back"]) == (11.25, 22.5, True)
    assert edited.settings["used"]["steps"] == 2


def test_an_edit_that_keeps_nothing_is_a_plain_generation_bit_for_bit(tiny, caplog):
    plain = tiny.generate("a forest", width=256, **ASKED)
    with caplog.at_level(logging.WARNING, "dit360"):
        made = tiny.generate("a forest", image=SCENE, mask=Image.new("L", SIZE, 255), **ASKED)
    assert made.image.tobytes() == plain.image.tobytes()
    assert "The mask keeps nothing, so all of the picture is made anew" in caplog.text


def test_an_edit_that_keeps_all_is_the_picture(tiny, caplog):
    """Bit for bit, and without pasting within what the autoencoder loses."""
    nothing = Image.new("L", SIZE)
    with caplog.at_level(logging.WARNING, "dit360"):
        kept = tiny.generate("a forest", image=SCENE, mask=nothing, **ASKED)
    assert kept.image.tobytes() == SCENE.tobytes()
    assert caplog.text.count("The mask keeps all, so nothing is made anew") == 1
    decoded = tiny.generate("a forest", image=SCENE, mask=nothing, paste_back=False, **ASKED)
    through = tiny.decode(tiny.encode_image(SCENE))
    apart = np.abs(np.asarray(decoded.image, int) - np.asarray(through.image, int))
    assert apart.max() <= 1


def test_a_photo_becomes_a_panorama_and_stays_sharp(tiny):
    photo = photo_of(AHEAD, name="view.jpg")
    made = tiny.generate("a forest", photo=photo, width=256, latent_rotation=True, **ASKED)
    found = canvas(None, photos=photo)
    core = (found.paste == 1).numpy()
    assert same(made.image, found.picture.image, core)
    told = made.settings["used"]["hold"]
    assert told["photos"] == [{"name": "view.jpg", "fov": 80, "yaw": 170, "pitch": -10, "roll": 15}]
    assert "mask_grow" not in told


def test_a_prepared_edit_is_the_same_and_stands_alone(tiny, edited):
    prepared = given(SCENE, HOLE)
    assert tiny.generate("a forest", given=prepared, **ASKED).image.tobytes() == edited.image.tobytes()
    with pytest.raises(dit360.InputError, match="holds a picture, its mask and its photos already"):
        tiny.generate("a forest", given=prepared, mask=HOLE)
    with pytest.raises(dit360.InputError, match="holds a picture, its mask and its photos already"):
        tiny.generate("a forest", given=prepared, mask_grow=3.0)


def test_a_picture_that_was_turned_keeps_its_direction(tiny):
    """North of the source is north of the edit."""
    pose = attrs.evolve(Panorama(image=SCENE).pose, heading=120.0)
    made = tiny.generate("a forest", image=Panorama(image=SCENE, pose=pose), mask=HOLE, **ASKED)
    assert made.pose.heading == 120.0


WRONG = {
    "a mask alone": ({"mask": HOLE}, "says which part of a picture is made anew, and none is given"),
    "a region alone": ({"region": "0,0,60"}, "says which part of a picture is made anew, and none is given"),
    "another shape": ({"image": SCENE, "mask": Image.new("L", (250, 128))}, "250×128 pixels.*256×128"),
    "a file's name": ({"image": "a.png", "mask": HOLE}, "for a file: Panorama.open"),
    "a mask's name": ({"image": SCENE, "mask": "m.png"}, "for a file: PIL.Image.open"),
    "a picture as photo": ({"photo": SCENE}, "Photo.open reads a file"),
    "growth of nothing": ({"mask_grow": 3.0}, "has no effect, because nothing is kept"),
    "the meaning of no mask": ({"image": SCENE, "region": "0,0,60", "mask_means": "keep"}, "because there is no mask"),
    "a picture that photos replace": (
        {"image": SCENE, "photo": Photo(SCENE, fov=60)}, "all that the photo leaves is made anew",
    ),
    "nothing to begin with": ({"photo": Photo(SCENE, fov=60), "denoise": 0.5}, "keeps a part of a picture, and"),
    "all of it": ({"image": SCENE}, "keeps nothing of the image"),
    "a match of nothing": (
        {"image": SCENE, "mask": HOLE, "paste_back": False, "match_colours": False}, "has no effect, because",
    ),
    "latents": ({"image": dit360.Latents(tensor=torch.zeros(1, 16, 16, 32)), "mask": HOLE}, "is latents, and mask"),
    "nonsense": ({"image": SCENE, "region": "left"}, "must be three numbers, YAW,PITCH,FOV"),
    "everything": ({"image": SCENE, "region": "0,0,180"}, "for more, give a mask"),
    "one photo twice": ({"photo": [Photo(SCENE, fov=60), Photo(SCENE, fov=50)]}, "shows nothing new"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_is_one_sentence(tiny, name):
    options, sentence = WRONG[name]
    with pytest.raises(dit360.InputError, match=sentence):
        tiny.generate("a forest", **options, **ASKED)


def test_a_mask_of_another_size_is_resized_and_told(caplog):
    with caplog.at_level(logging.INFO, "dit360"):
        given(SCENE, HOLE.resize((512, 256))).tell(SAMPLING)
    assert "The mask is resized from 512×256 to 256×128" in caplog.text
    assert canvas(mask=as_mask(HOLE.resize((512, 256)))).told["mask"] == [512, 256]


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [((512, 256), {"width": 256}, (256, 128)), ((500, 250), {}, (512, 256)), ((500, 250), {"height": 64}, (128, 64))],
)
def test_a_picture_of_another_size_is_resized_and_told(caplog, size, asked, expected):
    """To what was asked for, else to the nearest that can be made."""
    prepared = given(scene(size), mask_of((100, 40, 150, 80), size=size))
    sampling = prepared.outline.begin(attrs.evolve(SAMPLING, **asked))
    assert (sampling.width, sampling.height) == expected
    prepared.tell(sampling)
    assert f"The image is resized from {size[0]}×{size[1]} to {expected[0]}×{expected[1]}." in caplog.text
    found = canvas_of(prepared.at(expected), expected)
    apart = (pixels_of(found.picture.image) - pixels_of(scene(expected))).abs()
    assert apart.max() <= 0.03, "nor is there an edge at the meridian or a pole"


@pytest.mark.parametrize(("level", "hint"), [(255, "keep"), (0, "keep")])
def test_a_mask_that_was_painted_the_other_way_round_is_told_with_the_remedy(caplog, level, hint):
    with caplog.at_level(logging.WARNING, "dit360"):
        given(SCENE, Image.new("L", SIZE, level)).tell(SAMPLING)
    assert f"mask_means={hint}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "dit360"):
        given(SCENE, Image.new("L", SIZE, level), None, EditOptions(region="0,0,60")).tell(SAMPLING)
    assert ("keeps" in caplog.text) == (level == 255)
