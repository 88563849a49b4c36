"""Files with more than 8 bits a channel: other programs read the decoder's numbers from them, and so does dit360."""

import io
import json
import os
import re
import struct
import sys
import warnings
import zlib

import attrs
import numpy as np
import pytest
from command_line import dit360
from dit360_core.errors import InputError
from dit360_core.panorama import exr
from dit360_core.panorama.formats import BY_NAME, FORMATS, OPENEXR, TIFFFILE, check_format, check_library
from dit360_core.panorama.gpano import Area, Pose
from dit360_core.panorama.levels import eight_bits, floats_of
from dit360_core.panorama.light import PEAK, to_light
from dit360_core.panorama.masks import open_mask
from dit360_core.panorama.metadata import parse_xmp
from dit360_core.panorama.picture import Panorama, check_save, encoded
from PIL import Image, features

SETTINGS = {"prompt": 'a "quiet" <harbour> & 🏔\n', "seed": 7, "used": {"guidance": 2.8, "lora": None}}
POSE = Pose(heading=30.0, pitch=1.5, roll=-2.0, view_heading=90.0, others={"SourcePhotosCount": "3"})
HALF = 0.505 / 65_535
"""Half a step of 16 bits, and what multiplying float32 by 65535 loses."""
DEEP = (("a.png", {"bits": 16}), ("a.tif", {}), ("a.exr", {}))
avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@pytest.fixture(autouse=True)
def libraries():
    pytest.importorskip("OpenEXR")
    pytest.importorskip("tifffile")


def smooth(height=32):
    """Colours between the levels of 8 bits, dark ones too, ``(H, 2H, 3)``."""
    y, x = np.mgrid[0:height, 0 : 2 * height].astype(np.float32) / height
    floats = np.stack([np.sin(3.1 * x) ** 2, y**3, np.cos(2.2 * x * y) ** 2 * 0.01], axis=-1)
    return floats.astype(np.float32)


@pytest.fixture
def panorama():
    floats = smooth()
    return Panorama(image=Image.fromarray(eight_bits(floats)), settings=SETTINGS, pose=POSE, floats=floats)


def packet_of(path):
    """The XMP in a file, as libraries of others find it."""
    if path.suffix == ".exr":
        import OpenEXR

        return OpenEXR.File(str(path), header_only=True).header()["xmp"].encode()
    if path.suffix == ".tif":
        import tifffile

        with tifffile.TiffFile(path) as file:
            return bytes(file.pages[0].tags[700].value)
    with Image.open(path) as file:
        file.load()
        return file.info["xmp"]


# ------------------------------------------------------------------------------------------------------ read by others


def test_openexrs_own_reader_finds_the_light_of_the_floats_in_half_floats(panorama, tmp_path):
    import Imath
    import OpenEXR

    path = panorama.save(tmp_path / "a.exr")
    light = to_light(panorama.floats)
    read = OpenEXR.File(str(path)).channels()["RGB"].pixels
    assert read.dtype == np.float16
    assert np.array_equal(read, light.astype(np.float16))
    # The older reader of the same library, channel by channel.
    planes = OpenEXR.InputFile(str(path)).channels(["R", "G", "B"], Imath.PixelType(Imath.PixelType.HALF))
    assert np.array_equal(np.stack([np.frombuffer(p, np.float16).reshape(32, 64) for p in planes], -1), read)
    # Half floats have 11 bits, and below 2⁻¹⁴ steps of 2⁻²⁴.
    assert (np.abs(read - light) <= np.maximum(light * 2.0**-11, 2.0**-25)).all()


def test_an_exr_says_what_it_is_and_is_not(panorama, tmp_path):
    import OpenEXR

    header = OpenEXR.File(str(panorama.save(tmp_path / "a.exr")), header_only=True).header()
    assert header["envmap"] == OpenEXR.ENVMAP_LATLONG
    assert header["chromaticities"] == pytest.approx((0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329))
    assert "Display-referred" in header["comments"]
    assert "Not scene-referred: no real light intensities" in header["comments"]
    assert header["software"].startswith("dit360")
    assert "whiteLuminance" not in header
    assert "expanded" not in header["comments"]


def test_tifffile_finds_the_floats_in_16_bits(panorama, tmp_path):
    import tifffile

    path = panorama.save(tmp_path / "a.tiff")
    with tifffile.TiffFile(path) as file:
        read, page = file.asarray(), file.pages[0]
        assert page.photometric == tifffile.PHOTOMETRIC.RGB
        assert page.tags["Software"].value.startswith("dit360")
    assert read.dtype == np.uint16
    assert np.abs(read / 65_535 - panorama.floats).max() <= HALF
    with Image.open(path) as file:  # its upper 8 bits
        assert np.array_equal(np.asarray(file), read >> 8)


def test_another_decoder_finds_the_floats_in_a_png_of_16_bits(panorama, tmp_path):
    png = pytest.importorskip("png")
    data = panorama.save(tmp_path / "a.png", bits=16).read_bytes()
    width, height, rows, about = png.Reader(bytes=data).read()
    assert (width, height, about["bitdepth"], about["planes"]) == (64, 32, 16, 3)
    read = np.array([list(row) for row in rows]).reshape(32, 64, 3)
    assert np.abs(read / 65_535 - panorama.floats).max() <= HALF
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.asarray(file), read >> 8)


def test_a_large_png_is_packed_in_strips_that_go_on(tmp_path, monkeypatch):
    from dit360_core.panorama import levels

    monkeypatch.setattr(levels, "_STRIP", 3 * 64)
    floats = smooth()
    Panorama(Image.fromarray(eight_bits(floats)), floats=floats).save(tmp_path / "a.png", bits=16)
    monkeypatch.undo()
    assert np.abs(Panorama.open(tmp_path / "a.png").floats - floats).max() <= HALF


@pytest.mark.parametrize(("name", "how"), DEEP)
def test_settings_pose_and_gpano_come_back(panorama, tmp_path, name, how):
    path = panorama.save(tmp_path / name, **how)
    found = parse_xmp(packet_of(path))
    assert found.gpano["ProjectionType"] == "equirectangular"
    assert found.gpano["FullPanoWidthPixels"] == "64"
    back = Panorama.open(path)
    assert (back.settings, back.pose, back.area) == (SETTINGS, POSE, None)
    assert os.listdir(tmp_path) == [name]


@avif
def test_avif_keeps_metadata_and_looks_the_same(panorama, tmp_path):
    path = panorama.save(tmp_path / "a.avif")
    assert parse_xmp(packet_of(path)).settings == SETTINGS
    back = Panorama.open(path)
    assert (back.settings, back.pose, back.floats) == (SETTINGS, POSE, None)
    assert np.abs(np.asarray(back.image).astype(int) - np.asarray(panorama.image)).mean() < 2
    assert panorama.save(tmp_path / "small.avif", quality=20).stat().st_size < path.stat().st_size
    assert back.coded.name == "AVIF"


# --------------------------------------------------------------------------------------------------- read by ourselves


@pytest.mark.parametrize(("name", "how"), DEEP)
def test_the_floats_come_back_and_the_image_is_their_rounding(panorama, tmp_path, name, how):
    back = Panorama.open(panorama.save(tmp_path / name, **how))
    # The slope of sRGB's curve at black is 12.92 of half a step of a half float.
    assert np.abs(back.floats - panorama.floats).max() <= (3e-4 if name == "a.exr" else HALF)
    assert np.array_equal(eight_bits(back.floats), np.asarray(back.image))
    assert np.abs(np.asarray(back.image).astype(int) - np.asarray(panorama.image)).max() <= 1
    assert back.precision
    again = Panorama.open(back.save(tmp_path / f"again-{name}", **how))
    assert np.array_equal(again.floats, back.floats)


def test_what_has_8_bits_is_written_as_before(panorama):
    plain = attrs.evolve(panorama, floats=None)
    for name in ("JPEG", "PNG", "WEBP"):
        assert encoded(panorama, name, 95) == encoded(plain, name, 95)


def test_a_part_of_a_panorama_stays_one_over_the_meridian(tmp_path):
    floats = smooth()
    area = Area(left=48, top=4, width=32, height=20)
    columns = np.arange(48, 80) % 64
    shown = np.zeros_like(floats)
    shown[4:24, columns] = floats[4:24, columns]
    part = Panorama(Image.fromarray(eight_bits(shown)), area=area, floats=shown)
    for name, how in DEEP:
        back = Panorama.open(part.save(tmp_path / name, **how))
        assert back.area == area
        assert np.abs(back.floats - shown).max() < 3e-4


def test_a_turn_turns_the_floats_too(panorama, tmp_path):
    turned = panorama.roll(90)
    assert np.array_equal(turned.floats, np.roll(panorama.floats, -16, axis=1))
    assert np.array_equal(eight_bits(turned.floats), np.asarray(turned.image))
    turned.save(tmp_path / "a.tif")


def test_a_picture_without_floats_is_written_of_its_8_bits_and_told(panorama, tmp_path):
    plain = attrs.evolve(panorama, floats=None)
    for name, how in DEEP:
        with pytest.warns(UserWarning, match="8 bits a channel"):
            path = plain.save(tmp_path / name, **how)
        back = Panorama.open(path)
        assert np.array_equal(np.asarray(back.image), np.asarray(plain.image)), name
    import OpenEXR

    header = OpenEXR.File(str(tmp_path / "a.exr"), header_only=True).header()
    assert exr.OF_EIGHT_BITS in header["comments"]


def test_an_image_that_was_painted_on_is_what_is_saved(panorama, tmp_path):
    panorama.image.paste((255, 0, 0), (0, 0, 8, 8))
    with pytest.warns(UserWarning, match="changed after it was made"):
        panorama.save(tmp_path / "a.tif")
    assert Panorama.open(tmp_path / "a.tif").image.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("floats", [np.zeros((2, 4, 3), np.float32), np.zeros((32, 64, 3), np.uint8), "floats"])
def test_floats_that_do_not_belong_to_the_image_are_refused(panorama, floats):
    with pytest.raises(InputError, match="The floats of a panorama"):
        attrs.evolve(panorama, floats=floats)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_every_ending_has_a_format_and_tells_it(tmp_path):
    assert set(FORMATS.values()) == set(BY_NAME)
    for ending, name in FORMATS.items():
        if name != "AVIF" or features.check("avif"):
            assert check_save(tmp_path / f"a{ending}") == name


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("a.jpg", {"bits": 16}, "JPEG is written with 8 bits a channel, not with bits=16; for 16, save it as .png"),
        ("a.png", {"bits": 12}, "PNG is written with 8 or 16 bits a channel, not with bits=12"),
        ("a.png", {"bits": True}, "not with bits=True"),
        ("a.tif", {"bits": 8}, "TIFF is written with 16 bits a channel"),
        ("a.tif", {"expand_highlights": True}, "expand_highlights has no effect in TIFF"),
        ("a.jpg", {"expand_highlights": True}, "expand_highlights has no effect in JPEG"),
    ],
)
def test_what_a_format_cannot_hold_is_one_sentence_before_anything_is_made(panorama, tmp_path, name, how, why):
    for refuse in (check_save, panorama.save):
        with pytest.raises(InputError, match=why):
            refuse(tmp_path / name, **how)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("library", "name"), [(OPENEXR, "EXR"), (TIFFFILE, "TIFF")])
def test_a_library_that_is_missing_broken_or_old_is_told_with_the_command(monkeypatch, library, name):
    command = rf'pip install "dit360-core\[{library.extra}\]"'
    monkeypatch.setattr("dit360_core.panorama.formats.installed_version", lambda _: "0.1")
    with pytest.raises(InputError, match=f"needs {library.distribution} {library.floor} or newer, and 0.1 .*{command}"):
        check_format(name)
    monkeypatch.setitem(sys.modules, library.module, None)
    with pytest.raises(InputError, match=f"Writing {name} needs {library.distribution}, which .*{command}"):
        check_format(name)
    with pytest.raises(InputError, match=f"needs surely, which is not installed; {command}"):
        check_library(attrs.evolve(library, module="surely_not_installed", distribution="surely"), "It")


def test_nothing_is_left_when_a_library_fails(panorama, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    for name, module in (("a.exr", "exr_of"), ("a.tif", "deep_tiff"), ("a.png", "deep_png")):
        monkeypatch.setattr(f"dit360_core.panorama.picture.{module}", fail)
        (tmp_path / name).write_bytes(b"before")
        with pytest.raises((MemoryError, TypeError)):
            panorama.save(tmp_path / name, bits=16, force=True)
        assert (tmp_path / name).read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["a.exr", "a.png", "a.tif"]


# ----------------------------------------------------------------------------------------------------------- highlights


def test_expanded_highlights_are_told_in_the_file_and_compressed_when_it_is_opened(panorama, tmp_path):
    import OpenEXR

    floats = panorama.floats.copy()
    floats[:4] = 1.0
    white = attrs.evolve(panorama, floats=floats, image=Image.fromarray(eight_bits(floats)))
    path = white.save(tmp_path / "a.exr", expand_highlights=True)
    file = OpenEXR.File(str(path))
    assert file.channels()["RGB"].pixels.max() == pytest.approx(PEAK, rel=1e-3)
    assert "Display-referred" in file.header()["comments"]
    assert "invented" in file.header()["comments"]
    with pytest.warns(UserWarning, match="expanded highlights compressed again"):
        back = Panorama.open(path)
    assert np.abs(back.floats - floats).max() < 2e-3


# ------------------------------------------------------------------------------------------------------- while painting


def test_what_is_made_has_the_decoders_floats_and_what_is_kept_its_own(tiny, tmp_path):
    asked = {"seed": 7, "width": 256, "steps": 1}
    latents = tiny.sample(tiny.encode("a castle"), **asked)
    pixels = tiny.decode_pixels(latents).tensor[0].permute(1, 2, 0).numpy()
    made = tiny.decode(latents)
    assert np.array_equal(made.floats, pixels)
    assert np.array_equal(eight_bits(made.floats), np.asarray(made.image))

    begun = Panorama.open(made.save(tmp_path / "a.tif"))
    mask = Image.new("L", (256, 128), 0)
    mask.paste(255, (96, 32, 160, 96))
    edit = {"mask": mask, "seed": 3, "steps": 1}
    edited = tiny.generate("a tree", image=begun, **edit)
    kept = np.zeros((128, 256), bool)
    kept[40:88, :40] = kept[40:88, -40:] = True
    assert np.array_equal(edited.floats[kept], begun.floats[kept])
    assert not np.array_equal(edited.floats[40:88, 100:156], begun.floats[40:88, 100:156])
    assert np.array_equal(eight_bits(edited.floats), np.asarray(edited.image))
    # All of them are used: whoever begins with their rounding gets nearly the same, and not quite.
    plain = tiny.generate("a tree", image=attrs.evolve(begun, floats=None), **edit)
    off = np.abs(plain.floats - edited.floats)
    assert 0 < off.mean() < 1 / 255
    whole, rounded = (tiny.encode_image(attrs.evolve(begun, floats=floats)).tensor for floats in (begun.floats, None))
    assert 0 < float((whole - rounded).abs().max()) < 0.1
    # And at another size.
    larger = tiny.generate("a tree", image=begun, **edit, width=512)
    assert np.array_equal(eight_bits(larger.floats), np.asarray(larger.image))
    assert (larger.floats[:96, :64] * 255 % 1).std() > 0.1


@pytest.mark.parametrize("command", ["generate"])
def test_the_command_line_writes_reads_shows_and_edits_an_exr(tmp_path, command):
    small = ["--width", "256", "--steps", "1", "--seed", "7"]
    told = dit360(
        ["generate", "a castle", "-o", "x.exr", *small],
        ["inspect", "x.exr", "--json"],
        ["view", "x.exr", "-o", "x.html"],
        ["generate", "a tree", "--image", "x.exr", "--region", "0,0,40", "-o", "y.tif", *small[2:]],
        ["inspect", "y.tif", "--json"],
        ["generate", "a castle", "-o", "z.jpg", "--bits", "16", *small],
        ["generate", "a castle", "-o", "z.png", "--expand-highlights", *small],
        ["batch", "list.txt", "-o", "out", "--format", "tif", "--width", "128", "--steps", "1"]
        if (tmp_path / "list.txt").write_text("a castle\n")
        else [],
        cwd=tmp_path,
    )
    assert [one.code for one in told] == [0, 0, 0, 0, 0, 2, 2, 0], told
    about = json.loads(told[1].out)
    assert (about["width"], about["precision"]) == (256, "OpenEXR, linear light")
    assert about["settings"]["prompt"] == "a castle"
    assert about["settings"]["used"]["seed"] == 7
    assert "data:image/jpeg" in (tmp_path / "x.html").read_text("utf-8")
    assert json.loads(told[4].out)["precision"] == "16 bits a channel"
    assert told[5].err.startswith("Error: JPEG is written with 8 bits a channel, not with --bits 16;")
    assert told[6].err.startswith("Error: --expand-highlights has no effect in PNG")
    (picture,) = (tmp_path / "out").glob("*.tif")
    assert Panorama.open(picture).floats is not None
    assert Panorama.open(tmp_path / "x.exr").floats is not None


def test_a_batch_is_refused_with_the_line_whose_format_cannot_be(tmp_path):
    from dit360_core.batching import Batch

    (tmp_path / "list.jsonl").write_text('{"prompt": "a", "name": "a.png"}\n{"prompt": "b", "name": "b.jpg"}\n')
    with pytest.raises(InputError, match=r"line 2.*JPEG is written with 8 bits"):
        Batch(tmp_path / "list.jsonl", tmp_path / "out", bits=16, model="tiny")
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_told_before_the_model_is_looked_for(tmp_path):
    told = dit360(
        ["generate", "a", "-o", "a.exr", "--model", "nowhere"],
        ["generate", "a", "-o", "a.tif", "--model", "nowhere"],
        cwd=tmp_path,
        without=("OpenEXR", "tifffile", "torch"),
    )
    for one, extra in zip(told, ("exr", "tiff"), strict=True):
        assert one.code == 2
        assert f'pip install "dit360-core[{extra}]"' in one.err


def test_nothing_is_warned_of_a_good_file(panorama, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, how in DEEP:
            Panorama.open(panorama.save(tmp_path / name, **how))
    assert floats_of(np.uint16([[[65_535]]])).item() == 1.0
    assert io.BytesIO(encoded(panorama, "EXR", 95)).read(4) == exr.EXR_MARK


NOT_READ = {
    "floats": (np.zeros((32, 64, 3), np.float32), "its pixels are floating-point numbers of 32 bits; save it with 16"),
    "halves": (np.zeros((32, 64, 3), np.float16), "its pixels are floating-point numbers of 16 bits; save it with 16"),
    "grey-floats": (np.zeros((32, 64), np.float32), "its pixels are floating-point numbers of 32 bits; save it"),
    "wide": (np.zeros((32, 64, 3), np.uint32), "it has 32 bits a channel; save it with 16, or as OpenEXR"),
    "wide-grey": (np.zeros((32, 64), np.uint32), "it has 32 bits a channel; save it with 16, or as OpenEXR"),
    "signed": (np.zeros((32, 64), np.int16), "its pixels are signed numbers of 16 bits; save it with 16 bits a chan"),
    "opaque": (np.zeros((32, 64, 2), np.uint16), "it is grey with transparency, of 16 bits a channel; save it as PNG"),
}


@pytest.mark.parametrize("name", NOT_READ)
@pytest.mark.parametrize("read", [Panorama.open, open_mask])
def test_pixels_of_a_kind_that_is_not_read_are_told_as_such(name, read, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels, why = NOT_READ[name]
    how = {"photometric": "rgb"} if pixels.shape[-1] == 3 else {"photometric": "minisblack"}
    how |= {"extrasamples": ["unassalpha"]} if pixels.shape[-1] == 2 else {}
    for big in (False, True):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, bigtiff=big, **how)
        with pytest.raises(InputError, match=re.escape(why)):
            read(tmp_path / f"{name}.tif")


def test_white_that_is_zero_is_white(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    dark = np.full((32, 64), 60_000, np.uint16)
    dark[:, :8] = 0
    tifffile.imwrite(tmp_path / "a.tif", dark, photometric="miniswhite")
    levels = (Panorama.open(tmp_path / "a.tif").floats * 65_535).round()
    assert (levels[0, 0, 0], levels[0, 63, 0]) == (65_535, 5_535)
    assert open_mask(tmp_path / "a.tif").getextrema() == (round(5_535 / 257), 255)


def _png_of_16_bits(levels, clear):
    """In grey or colours, of which one is transparent."""
    kind = 0 if levels.ndim == 2 else 2
    rows = levels.astype(">u2").reshape(len(levels), -1).view(np.uint8)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", levels.shape[1], len(levels), 16, kind, 0, 0, 0)),
        (b"tRNS", np.array(clear, ">u2").tobytes()),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    )
    made = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize("shape", [(32, 64), (32, 64, 3)])
def test_one_colour_of_16_bits_that_is_transparent_is_a_hole(shape, tmp_path):
    levels = np.full(shape, 40_000, np.uint16)
    levels[:, :8] = 40_001
    (tmp_path / "a.png").write_bytes(_png_of_16_bits(levels, [40_001] * (shape[2] if len(shape) > 2 else 1)))
    hole = np.asarray(Panorama.open(tmp_path / "a.png").hole)
    assert ((hole[:, :8] == 255).all(), hole[:, 8:].any()) == (True, False)
    (tmp_path / "a.png").write_bytes(_png_of_16_bits(levels, [7] * (shape[2] if len(shape) > 2 else 1)))
    assert Panorama.open(tmp_path / "a.png").hole is None
    levels[:, :8] = 0
    (tmp_path / "a.png").write_bytes(_png_of_16_bits(levels, [0] * (shape[2] if len(shape) > 2 else 1)))
    assert np.asarray(open_mask(tmp_path / "a.png"))[:, [0, 63]].mean(0).tolist() in ([255, 0], [0, 255])


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_frames_that_are_left_out_are_told(name, tmp_path):
    frames = [Image.new("RGB", (64, 32), (level, 0, 0)) for level in (0, 120, 250)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="holds several pictures, of which the first is taken"):
        assert np.asarray(Panorama.open(tmp_path / name).image)[0, 0, 0] < 9


@pytest.mark.filterwarnings("ignore:.*outside of what a screen shows")
def test_primaries_beyond_all_colours_are_converted_and_impossible_ones_told(tmp_path):
    """Of ACES2065-1 the blue lies below y = 0."""
    openexr = pytest.importorskip("OpenEXR")
    wide = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)
    light = np.full((32, 64, 3), (0.2, 0.4, 0.3), np.float32)
    openexr.File({"type": openexr.scanlineimage, "chromaticities": wide}, {"RGB": light}).write(str(tmp_path / "a.exr"))
    opened = Panorama.open(tmp_path / "a.exr")
    assert opened.profile == "linear light of other primaries"
    # By the matrix from AP0 to Rec. 709 (Bradford) of the Academy's.
    matrix = [[2.52169, -1.13413, -0.38756], [-0.27648, 1.37272, -0.09624], [-0.01538, -0.15298, 1.16835]]
    wanted = np.clip(np.array(matrix) @ light[0, 0], 0, 1)
    assert np.abs(to_light(opened.floats)[0, 0] - wanted).max() < 2e-3
    flat = (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)
    openexr.File({"type": openexr.scanlineimage, "chromaticities": flat}, {"RGB": light}).write(str(tmp_path / "b.exr"))
    with pytest.warns(UserWarning, match=r"its primaries \(chromaticities\) span no colours"):
        assert np.abs(to_light(Panorama.open(tmp_path / "b.exr").floats) - light).max() < 1e-5


def test_transparency_that_is_not_shown_is_told(tmp_path):
    picture = Image.new("RGBA", (64, 32), (9, 9, 9, 255))
    picture.paste((9, 9, 9, 0), (0, 0, 32, 32))
    picture.save(tmp_path / "a.png")
    seen, told = dit360(["view", "a.png", "-o", "a.html"], ["inspect", "a.png"], cwd=tmp_path, without=("torch",))
    for said in (seen.err + seen.out, told.err + told.out):
        assert re.search(r"transparency:? +50 % of the picture", said), said


def test_numbers_near_the_largest_there_are_become_white_without_a_word_of_numpys(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    pixels = np.full((32, 64, 4), 3e38, np.float32)
    pixels[..., 3] = 1e-3
    header = {"type": openexr.scanlineimage, "compression": openexr.ZIP_COMPRESSION}
    openexr.File(header, {"RGBA": pixels}).write(str(tmp_path / "x.exr"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = Panorama.open(tmp_path / "x.exr")
    assert (np.asarray(opened.image) == 255).all()
    assert all(issubclass(one.category, UserWarning) for one in told)
    assert any("times its white" in str(one.message) for one in told)
