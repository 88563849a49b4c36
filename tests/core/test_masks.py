"""Masks as files and pictures, of every kind that painting programs write."""

import numpy as np
import pytest
from dit360_core.errors import InputError
from dit360_core.panorama.masks import as_mask, evenly, levels_of, open_mask
from PIL import Image, ImageDraw

SIZE = (64, 32)


def painted(mode="L", colour=255, ground=0):
    image = Image.new(mode, SIZE, ground)
    ImageDraw.Draw(image).rectangle((10, 8, 29, 15), fill=colour)
    return image


EXPECTED = np.asarray(painted(), np.float32) / 255


def transparent(colour, ground):
    return painted("RGBA", colour, ground)


KINDS = {
    "grey": painted(),
    "bilevel": painted("1", 1),
    "colours": painted("RGB", (255, 255, 255)),
    "red strokes": painted("RGB", (255, 0, 0)),
    "16 bits": painted("I;16", 65535),
    "palette": painted("RGB", (255, 255, 255)).convert("P"),
    "grey with opacity": Image.merge("LA", [painted(), Image.new("L", SIZE, 255)]),
    "white strokes on nothing": transparent((255, 255, 255, 255), (0, 0, 0, 0)),
    "black strokes on nothing": transparent((0, 0, 0, 255), (0, 0, 0, 0)),
    "strokes on nothing that is white": transparent((200, 30, 30, 255), (255, 255, 255, 0)),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("saved", [False, True])
def test_every_kind_of_mask_says_the_same(name, saved, tmp_path):
    mask = KINDS[name]
    if saved:
        mask.save(tmp_path / "mask.png")
    read = open_mask(tmp_path / "mask.png") if saved else as_mask(mask)
    assert read.mode == "L"
    assert np.array_equal(levels_of(read, SIZE), EXPECTED)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_mask_that_does_not_say_what_is_white_is_refused(mode):
    with pytest.raises(InputError, match=rf"A mask has 8 or 16 bits a channel, but this one is of mode {mode}"):
        as_mask(Image.new(mode, SIZE, 1))


SOFT = Image.new("RGBA", SIZE)
SOFT.paste((200, 30, 90, 255), (10, 8, 30, 16))
OPAQUE = Image.merge("RGBA", [painted()] * 3 + [Image.new("L", SIZE, 255)])
OPAQUE.putpixel((0, 0), (0, 0, 0, 254))
TWO = Image.new("RGBA", SIZE)
TWO.paste((200, 30, 90, 255), (10, 8, 20, 16))
TWO.paste((30, 30, 220, 255), (20, 8, 30, 16))
BOTH = Image.new("RGBA", SIZE)
BOTH.paste((0, 0, 0, 255), (5, 4, 40, 20))
BOTH.paste((255, 255, 255, 255), (10, 8, 30, 16))


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        (SOFT.resize((256, 128), Image.Resampling.LANCZOS).resize(SIZE, Image.Resampling.LANCZOS), 0.1),
        (OPAQUE, 0.0),
        (TWO, 0.0),
        (BOTH, 0.0),
    ],
    ids=["resized strokes", "hardly transparent", "two colours", "white among black"],
)
def test_layers_are_not_taken_for_pictures_with_holes(mask, most):
    levels = levels_of(as_mask(mask), SIZE)
    assert np.abs(levels - EXPECTED).mean() <= most


def test_a_picture_with_a_hole_is_a_mask_that_is_white_there():
    picture = Image.effect_noise(SIZE, 60).convert("RGBA")
    picture.putalpha(painted(colour=0, ground=255))
    assert np.array_equal(levels_of(as_mask(picture), SIZE), EXPECTED)


def test_a_jpegs_noise_is_neither_kept_nor_made_anew(tmp_path):
    painted().save(tmp_path / "mask.jpg", quality=92)
    levels = levels_of(open_mask(tmp_path / "mask.jpg"), SIZE)
    assert (levels == EXPECTED).mean() > 0.97
    assert set(np.unique(levels[:, 40:])) == {0.0}


def test_another_size_of_2_to_1_is_resized_with_the_meridian_as_one_place():
    """A mask that is white on both sides of the meridian stays white there."""
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).rectangle((0, 8, 3, 15), fill=255)
    ImageDraw.Draw(mask).rectangle((60, 8, 63, 15), fill=255)
    larger = levels_of(mask, (256, 128))
    assert larger.shape == (128, 256)
    assert (larger[48, [0, 1, 254, 255]] == 1).all()
    smaller = levels_of(mask, (32, 16))
    assert (smaller[5, [0, 31]] == 1).all()
    assert not smaller[5, 8:24].any()


@pytest.mark.parametrize("size", [(63, 32), (32, 64), (64, 64), (1, 1)])
def test_another_shape_is_one_sentence_with_the_size_to_take(size):
    with pytest.raises(InputError, match=rf"{size[0]}×{size[1]} pixels, .* or resize it to 512×256"):
        levels_of(Image.new("L", size), (512, 256))


@pytest.mark.parametrize(
    ("levels", "expected"), [((0, 3), 0.0), ((255, 251), 1.0), ((0, 255), None), ((100, 160), None)]
)
def test_a_mask_of_one_level_is_known_whatever_its_noise(levels, expected):
    mask = Image.new("L", SIZE, levels[0])
    mask.putpixel((5, 5), levels[1])
    assert evenly(mask) == expected


def test_a_mask_that_is_missing_or_none_is_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name, sentence in (("nothing.png", "no such file"), ("text.png", "text.png")):
        with pytest.raises(InputError, match=sentence):
            open_mask(tmp_path / name)
