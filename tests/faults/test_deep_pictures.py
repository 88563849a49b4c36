"""Pictures of strangers with more than 8 bits a channel: one sentence, little memory, and what is read is right."""

import contextlib
import io
import re
import struct
import warnings
import zlib

import attrs
import numpy as np
import pytest
from command_line import dit360, python
from dit360_core.errors import InputError
from dit360_core.panorama.levels import eight_bits
from dit360_core.panorama.light import to_light
from dit360_core.panorama.masks import open_mask
from dit360_core.panorama.opening import read_metadata
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from PIL import Image, ImageCms, features

OpenEXR = pytest.importorskip("OpenEXR")
tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 65_536, (32, 64, 4), dtype=np.uint16)
LIGHT = to_light(RNG.random((32, 64, 3), dtype=np.float32))


def exr(channels=None, **header):
    buffer = io.BytesIO()
    OpenEXR.File(header, channels or {"RGB": LIGHT}).write(buffer)
    return buffer.getvalue()


def tiff(levels=LEVELS[..., :3], **how):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, levels, **{"photometric": "rgb" if levels.ndim > 2 else "minisblack", **how})
    return buffer.getvalue()


def png(levels, kind, *chunks):
    """A PNG of 16 bits; kind: of its colours, as its header says."""
    height, width = levels.shape[:2]
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    made = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def avif():
    buffer = io.BytesIO()
    Image.fromarray(LEVELS[..., :3].astype(np.uint8)).save(buffer, "AVIF")
    return buffer.getvalue()


def large_exr():
    """60000×30000 by its header, of which hardly anything is there."""
    return exr().replace(struct.pack("<4i", 0, 0, 63, 31), struct.pack("<4i", 0, 0, 59_999, 29_999))


def large_tiff():
    data = tiff(compression="zlib")
    for tag, number, large in ((256, 64, 60_000), (257, 32, 30_000)):
        before, after = (struct.pack("<HHII", tag, 4, 1, value) for value in (number, large))
        assert before in data
        data = data.replace(before, after)
    return data


def deep_exr():
    depths = np.empty((8, 16), dtype=object)
    for at in np.ndindex(8, 16):
        depths[at] = np.ones(2, np.float32)
    return exr({"Z": depths}, type=OpenEXR.deepscanline, compression=OpenEXR.ZIPS_COMPRESSION)


def two_parts():
    buffer = io.BytesIO()
    OpenEXR.File([OpenEXR.Part({"name": name}, {"RGB": LIGHT}) for name in ("left", "right")]).write(buffer)
    return buffer.getvalue()


def windowed():
    return exr().replace(
        b"displayWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", 0, 0, 63, 31),
        b"displayWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", 0, 0, 99, 49),
    )


WHOLE = {"a.exr": exr(), "a.tif": tiff(compression="zlib"), "a.png": png(LEVELS[..., :3], 2)}
if features.check("avif"):
    WHOLE["a.avif"] = avif()
UNSAFE = r"it has \d+×\d+ pixels, more than the 179 million that are opened unasked; .*DIT360_MAX_PIXELS=\d+ .*"
DAMAGED = r"the picture is damaged or cannot be read \(.*\); make or download it again"
REFUSED = {
    "large.exr": (large_exr(), UNSAFE),
    "large.tif": (large_tiff(), UNSAFE),
    "deep.exr": (deep_exr(), "it is a deep picture, with several depths in a pixel; flatten it first"),
    "parts.exr": (two_parts(), r"it holds 2 pictures \(parts\); save one of them by itself"),
    "cube.exr": (exr(envmap=OpenEXR.ENVMAP_CUBE), "it is a cube map; convert it to latitude and longitude first"),
    "window.exr": (windowed(), r"its pixels do not cover just what it shows .*; crop it first"),
    "depth.exr": (exr({"Z": LIGHT[..., 0].copy()}), r"it lacks the channels R, G and B \(it has Z\); save it as .*"),
    "layer.exr": (
        exr({f"ViewLayer.Combined.{name}": LIGHT[..., 0].copy() for name in "RGB"}),
        r"it lacks the channels R, G and B \(it has ViewLayer.*\); save it as plain RGB",
    ),
    "many.exr": (exr({f"c{n}": LIGHT[..., 0].copy() for n in range(70)}), "it has 70 channels; save R, G and B alone"),
    "square.exr": (exr({"RGB": LIGHT[:, :32].copy()}), None),
    "cut.exr": (WHOLE["a.exr"][: len(WHOLE["a.exr"]) // 2], DAMAGED),
    "head.exr": (WHOLE["a.exr"][:60], DAMAGED),
    "cut.tif": (WHOLE["a.tif"][: len(WHOLE["a.tif"]) // 2], DAMAGED),
    "cut.png": (WHOLE["a.png"][: len(WHOLE["a.png"]) // 2], DAMAGED),
    "planes.tif": (
        tiff(np.ascontiguousarray(np.moveaxis(LEVELS[..., :3], -1, 0)), planarconfig="separate"),
        r"it has over 8 bits a channel, and the planes of its colours one after the other; save it interleaved .*",
    ),
    "float.tif": (
        tiff(LIGHT),
        r"its pixels are floating-point numbers of 32 bits; save it with 16 bits a channel, or as OpenEXR",
    ),
    "grey-float.tif": (tiff(LIGHT[..., 0]), r"its pixels are floating-point numbers of 32 bits; .*"),
    "renamed.exr": (b"\x76\x2f\x31\x01 and no more", DAMAGED),
}
if "a.avif" in WHOLE:
    REFUSED["cut.avif"] = (WHOLE["a.avif"][: len(WHOLE["a.avif"]) // 2], DAMAGED)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    desk = tmp_path_factory.mktemp("desk")
    for name, data in {**WHOLE, **{name: data for name, (data, _) in REFUSED.items()}}.items():
        (desk / name).write_bytes(data)
    return desk


@pytest.fixture(scope="module")
def told(desk):
    commands = {}
    for name in REFUSED:
        commands["inspect", name] = ["inspect", name]
        commands["view", name] = ["view", name, "-o", "new.html"]
        commands["generate", name] = ["generate", "a", "--image", name, "--denoise", "0.5", "-o", "new.exr"]
    told = dict(zip(commands, dit360(*commands.values(), cwd=desk, without=("torch",)), strict=True))
    assert not list(desk.glob("new*"))
    return told


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["inspect", "view", "generate"])
def test_a_deep_picture_that_cannot_be_opened_is_one_sentence(told, command, name):
    said, why = told[command, name], REFUSED[name][1]
    assert said.code == 2, said
    assert said.out == ""
    if why is None:
        assert said.err.startswith("Error: ")
        assert "twice as wide as high" in said.err
    else:
        assert re.fullmatch(rf"Error: Cannot open {name}: {why}\.\n", said.err), said.err


def test_a_damaged_exr_prints_nothing_beside_the_sentence(desk):
    # The library writes to the process's own standard error, which Python's does not catch.
    said = python(
        "import os\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from dit360_core.panorama.picture import Panorama\n"
        "def told(name):\n"
        "    try: return Panorama.open(name)\n"
        "    except ValueError as error: return error\n"
        "with ThreadPoolExecutor(4) as threads:\n"
        "    print(*threads.map(told, ('cut.exr', 'head.exr', 'renamed.exr') * 8), sep='\\n')\n"
        "os.write(2, b'afterwards')\n",
        cwd=desk,
        fresh=True,
    )
    assert said.stdout.count("Cannot open") == 24, said
    assert said.stderr == "afterwards"


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_or_changed_anywhere_raises_nothing_but_input_errors(tmp_path, name):
    data, path = WHOLE[name], tmp_path / name
    drawn = np.random.default_rng(7)
    for turn in range(60):
        changed = bytearray(data)
        if turn % 2:
            changed = changed[: int(drawn.integers(0, len(data)))]
        else:
            for at in drawn.integers(0, min(len(data), 2000), 4):
                changed[at] = drawn.integers(0, 256)
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(InputError):
                Panorama.open(path)
            read_metadata(path)


def test_little_memory_is_taken_for_what_says_that_it_is_large(desk):
    said = python(
        "import resource, warnings\n"
        "from dit360_core.panorama.picture import Panorama\n"
        "warnings.simplefilter('ignore')\n"
        "for name in ('a.exr', 'a.tif'): Panorama.open(name)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: Panorama.open('large.exr')\n"
        "except ValueError as error: print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n",
        cwd=desk,
        fresh=True,
    )
    assert int(said.stdout) < 64, said


# --------------------------------------------------------------------------------------------------------- what is read


def opened(tmp_path, name, data, *told):
    """The picture in these bytes; told: what is to be warned of, and nothing else."""
    (tmp_path / name).write_bytes(data)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        panorama = Panorama.open(tmp_path / name)
    assert len(heard) == len(told), [str(one.message) for one in heard]
    for one, words in zip(heard, told, strict=True):
        assert re.search(words, str(one.message)), str(one.message)
    if panorama.floats is not None:
        assert np.array_equal(eight_bits(panorama.floats), np.asarray(panorama.image))
    return panorama


@pytest.mark.parametrize(
    "data",
    [
        tiff(), tiff(byteorder=">"), tiff(compression="zlib"), tiff(compression="zlib", predictor=True, byteorder=">"),
        tiff(tile=(16, 16)), tiff(compression="zlib", tile=(32, 16)), tiff(rowsperstrip=5, compression="zlib"),
        tiff(bigtiff=True), png(LEVELS[..., :3], 2),
    ],
)  # fmt: skip
def test_all_16_bits_are_read_however_a_file_is_made(tmp_path, data):
    panorama = opened(tmp_path, "a.bin", data)
    assert np.array_equal((panorama.floats * 65_535).round(), LEVELS[..., :3])
    assert panorama.precision == "16 bits a channel"


@pytest.mark.parametrize("data", [png(LEVELS[..., :1], 0), tiff(LEVELS[..., 0]), tiff(LEVELS[..., 0], byteorder=">")])
def test_greys_of_16_bits_are_read(tmp_path, data):
    assert np.array_equal((opened(tmp_path, "a", data).floats * 65_535).round(), LEVELS[..., [0, 0, 0]])


@pytest.mark.parametrize(
    ("data", "colours"),
    [
        (png(LEVELS[..., :2], 4), [0, 0, 0]),
        (png(LEVELS, 6), [0, 1, 2]),
        (tiff(LEVELS, extrasamples=["unassalpha"], compression="zlib"), [0, 1, 2]),
    ],
)
def test_opacity_of_16_bits_is_a_hole(tmp_path, data, colours):
    panorama = opened(tmp_path, "a", data)
    assert np.array_equal((panorama.floats * 65_535).round(), LEVELS[..., colours])
    alpha = LEVELS[..., 1] if colours == [0, 0, 0] else LEVELS[..., 3]
    assert np.array_equal(255 - np.asarray(panorama.hole), alpha >> 8)


def test_a_picture_of_16_bits_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        levels = LEVELS[..., :3] if orientation < 5 else np.ascontiguousarray(LEVELS[..., :3].swapaxes(0, 1))
        for data in (
            png(levels, 2, (b"eXIf", exif.tobytes()[6:])),
            tiff(levels, extratags=[(274, 3, 1, orientation, True)]),
        ):
            # What Pillow makes of the upper halves.
            (tmp_path / "b").write_bytes(data)
            with Image.open(tmp_path / "b") as file:
                file.load()
                from PIL import ImageOps

                upright = np.asarray(ImageOps.exif_transpose(file))
            panorama = opened(tmp_path, "a", data)
            assert np.array_equal(((panorama.floats * 65_535).round().astype(np.uint16) >> 8), upright), orientation


def test_colours_of_another_profile_are_converted_with_8_bits_and_told(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert opened(tmp_path, "a.tif", tiff(iccprofile=srgb)).floats is not None
    other = (b"cICP", bytes([12, 13, 0, 1]))  # Display P3
    panorama = opened(tmp_path, "a.png", png(LEVELS[..., :3], 2, other), "with 8 of its 16 bits a channel, as its colo")
    assert panorama.floats is None
    assert panorama.profile == "Display P3"


@pytest.mark.skipif("a.avif" not in WHOLE, reason="this Pillow has no AVIF")
def test_colours_of_an_avif_that_are_others_are_converted_or_told(tmp_path):
    data = WHOLE["a.avif"]
    said = b"colrnclx" + struct.pack(">HH", 1, 13)
    assert data.count(said) == 1
    assert opened(tmp_path, "a", data).profile == ""
    wide = data.replace(said, said[:8] + struct.pack(">HH", 12, 13))
    assert opened(tmp_path, "b", wide).profile == "Display P3"
    bright = data.replace(said, said[:8] + struct.pack(">HH", 9, 16))
    opened(tmp_path, "c", bright, r"brighter than a screen's white \(PQ\)")


def test_8_bits_palettes_and_inks_in_tiff_are_read(tmp_path):
    levels = LEVELS[..., :3].astype(np.uint8)
    panorama = opened(tmp_path, "a", tiff(levels))
    assert np.array_equal(np.asarray(panorama.image), levels)
    assert panorama.floats is None
    for mode in ("P", "CMYK", "1", "LA", "RGBA"):
        Image.fromarray(levels).convert(mode).save(tmp_path / "b.tif")
        assert opened(tmp_path, "c", (tmp_path / "b.tif").read_bytes()).size == (64, 32)
    opened(tmp_path, "d", tiff(LEVELS, photometric="separated"), "with 8 of its 16 bits a channel")


def test_further_pictures_in_a_tiff_are_told(tmp_path):
    two = np.stack([LEVELS[..., :3], LEVELS[::-1, :, :3]])
    panorama = opened(tmp_path, "a", tiff(two), "holds several pictures, of which the first is taken")
    assert np.array_equal((panorama.floats * 65_535).round(), LEVELS[..., :3])


@pytest.mark.parametrize(
    ("data", "close"),
    [
        (exr(), 2e-6),
        (exr({"RGB": LIGHT.astype(np.float16)}), 3e-4),
        (exr(type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription()), 2e-6),
        (exr(compression=OpenEXR.PIZ_COMPRESSION), 2e-6),
        (exr(lineOrder=OpenEXR.DECREASING_Y), 2e-6),
        (exr({name: LIGHT[..., at].copy() for at, name in enumerate("RGB")}), 2e-6),
    ],
)
def test_the_light_of_an_exr_is_coded_as_srgb(tmp_path, data, close):
    panorama = opened(tmp_path, "a.exr", data)
    assert np.abs(to_light(panorama.floats) - LIGHT).max() <= close
    assert panorama.precision == "OpenEXR, linear light"


def test_a_grey_exr_and_other_channels_are_read_and_told(tmp_path):
    grey = opened(tmp_path, "a", exr({"Y": LIGHT[..., 0].copy()}))
    assert np.array_equal(grey.floats[..., 0], grey.floats[..., 2])
    opened(tmp_path, "b", exr({"RGB": LIGHT, "Z": LIGHT[..., 0].copy()}), "opens without its channels Z")


def test_light_that_no_screen_shows_is_cut_and_told(tmp_path):
    bright = LIGHT.copy()
    bright[:8], bright[8, :32], bright[9, 0], bright[9, 1] = 20.0, -1.0, np.nan, np.inf
    panorama = opened(tmp_path, "a", exr({"RGB": bright}), "2 of its pixels are no finite", "% of its pixels lie outs")
    assert (panorama.floats[:8] == 1).all()
    assert (panorama.floats[8, :32] == 0).all()
    assert panorama.floats[9, :2].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_opacity_of_an_exr_is_divided_out_and_a_hole(tmp_path):
    alpha = np.ones((32, 64), np.float32)
    alpha[:, :16], alpha[:, 16:32] = 0.5, 0
    pixels = np.concatenate([LIGHT * alpha[..., None], alpha[..., None]], -1)
    panorama = opened(tmp_path, "a", exr({"RGBA": pixels}))
    assert np.abs(to_light(panorama.floats) - LIGHT)[:, :16].max() < 1e-5
    hole = np.asarray(panorama.hole)
    assert (hole[:, 16:32] == 255).all()
    assert (hole[:, 32:] == 0).all()
    assert opened(tmp_path, "b", exr({"RGBA": np.concatenate([LIGHT, alpha[..., None] * 0 + 1], -1)})).hole is None


def test_primaries_of_an_exr_are_converted(tmp_path):
    grey = np.repeat(LIGHT[..., :1], 3, axis=2)
    wide = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290)  # BT.2020, whose white is that of sRGB
    panorama = opened(tmp_path, "a", exr({"RGB": grey}, chromaticities=wide))
    assert np.abs(to_light(panorama.floats) - grey).max() < 1e-3
    red = opened(
        tmp_path, "b", exr({"RGB": LIGHT * np.float32([0.4, 0, 0])}, chromaticities=wide), "outside of what a screen"
    )
    assert "linear light" in red.profile


@pytest.mark.parametrize(
    "more", [{"dit360HighlightKnee": 0.5}, {"dit360HighlightKnee": 2.0, "dit360HighlightPeak": 16.0}]
)
def test_highlights_that_are_told_of_in_nonsense_are_left_alone(tmp_path, more):
    assert np.abs(to_light(opened(tmp_path, "a", exr(**more)).floats) - LIGHT).max() < 2e-6


def test_metadata_of_strangers_do_no_harm(tmp_path):
    for data in (exr(xmp="<!DOCTYPE x><x/>"), tiff(extratags=[(700, 1, 16, b"<!DOCTYPE x><x/>", True)])):
        opened(tmp_path, "a", data, "opens without its settings: .*DOCTYPE")
    opened(tmp_path, "b", exr(xmp=3.5))


def test_photos_and_masks_are_read_of_them(tmp_path):
    for name, data in WHOLE.items():
        (tmp_path / name).write_bytes(data)
        assert Photo.open(tmp_path / name, fov=60).image.size == (64, 32)
    half = np.where(np.arange(64) < 32, 0, 65_535).astype(np.uint16)
    (tmp_path / "mask.tif").write_bytes(tiff(half[None].repeat(32, 0)))
    assert np.asarray(open_mask(tmp_path / "mask.tif"))[:, [0, 63]].mean(0).tolist() == [0, 255]
    with pytest.raises(InputError, match="not a JPEG, PNG, WebP, AVIF or TIFF picture"):
        open_mask(tmp_path / "a.exr")


def test_an_opened_picture_is_saved_as_anything(tmp_path):
    panorama = opened(tmp_path, "a.tif", WHOLE["a.tif"])
    for name in ("b.jpg", "b.exr", "b.tif"):
        assert Panorama.open(attrs.evolve(panorama, settings={"a": 1}).save(tmp_path / name)).settings == {"a": 1}
