"""Pictures in other colours than sRGB become sRGB, by their own profile, before anything is made of them."""

import base64
import io
import re
import struct

import numpy as np
import pytest
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.showing import write_viewer
from PIL import Image, ImageCms, PngImagePlugin

#: Chromaticities of red, green, blue and white, and the exponent of the curve; None: that of sRGB.
SPACES = {
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290), None),
    "Adobe RGB": ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), (0.3127, 0.3290), 2.19921875),
    "ProPhoto": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585), 1.8),
    # Extreme ones: red and blue change places, and a curve that inverts what is light and dark by very much.
    "swapped": ((0.150, 0.060), (0.300, 0.600), (0.640, 0.330), (0.3127, 0.3290), None),
    "steep": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290), 6.0),
}
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(x, y):
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(red, green, blue, white):
    """(3, 3): linear RGB → XYZ beside D50, adapted as ICC asks."""
    primaries = np.stack([xyz(*point) for point in (red, green, blue)], axis=1)
    primaries = primaries * np.linalg.solve(primaries, xyz(*white))
    cones = (BRADFORD @ D50) / (BRADFORD @ xyz(*white))
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ primaries


def linear(values, gamma):
    return (
        np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        if gamma is None
        else values**gamma
    )


def fixed(values):
    """Three numbers as an ICC profile holds XYZ."""
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))


def profile(name, space=b"RGB "):
    """An ICC profile (version 2) of such a space, made by hand."""
    *points, gamma = SPACES[name]
    matrix = to_d50(*points)
    steps = np.round(65535 * linear(np.linspace(0, 1, 1024), gamma)).astype(int)
    curve = b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *steps)
    text = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(1 + 78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": fixed(D50)}
    tags |= {letter + b"XYZ": fixed(matrix[:, i]) for i, letter in enumerate((b"r", b"g", b"b"))}
    tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(data), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(65536 * v) for v in D50)) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + data


def in_srgb(pixels, name):
    """The same colours in sRGB, computed here: relative colorimetric, what sRGB has not cut off."""
    *points, gamma = SPACES[name]
    light = linear(pixels / 255, gamma) @ to_d50(*points).T
    back = np.linalg.inv(to_d50((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290)))
    light = np.clip(light @ back.T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def colours():
    """(32, 64, 3): every tone of the colour cube, coarsely."""
    steps = np.linspace(8, 248, 13).round()
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)[:2048]
    return np.concatenate((cube, cube[: 2048 - len(cube)])).reshape(32, 64, 3).astype(np.uint8)


@pytest.mark.parametrize("name", SPACES)
def test_a_picture_in_another_space_is_converted_to_srgb(tmp_path, name):
    Image.fromarray(colours()).save(tmp_path / "a.png", icc_profile=profile(name))
    panorama = Panorama.open(tmp_path / "a.png")
    assert panorama.profile == name
    assert panorama.image.info == {}
    difference = np.abs(np.asarray(panorama.image) - in_srgb(colours(), name))
    # Out of 255: eight bits of a steep curve are few, and libraries clip in a space of their own.
    assert np.quantile(difference, 0.9) < 2, difference.max()
    assert np.abs(np.asarray(panorama.image).astype(int) - colours()).max() > 20, "nothing was converted"
    for suffix in (".jpg", ".webp", ".png"):
        saved = panorama.save(tmp_path / f"b{suffix}")
        with Image.open(saved) as file:
            assert "icc_profile" not in file.info
    assert np.array_equal(np.asarray(Panorama.open(tmp_path / "b.png").image), np.asarray(panorama.image))


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_profiles_of_all_formats_are_found(tmp_path, suffix):
    flat = Image.new("RGB", (64, 32), (40, 200, 60))
    flat.save(tmp_path / f"a{suffix}", icc_profile=profile("Display P3"), quality=100)
    found = np.asarray(Panorama.open(tmp_path / f"a{suffix}").image).reshape(-1, 3)
    assert np.abs(found - in_srgb(np.array([[40, 200, 60]]), "Display P3")).max() < 5


def points(name):
    """cHRM of a space: white, red, green, blue."""
    red, green, blue, white, _ = SPACES[name]
    return struct.pack(">8I", *(round(1e5 * number) for point in (white, red, green, blue) for number in point))


ADOBE = {b"gAMA": struct.pack(">I", 45471), b"cHRM": points("Adobe RGB")}


def test_primaries_of_a_png_that_span_no_colours_are_told(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 50000))
    info.add(b"cHRM", bytes(32))
    Image.fromarray(colours()).save(tmp_path / "a.png", pnginfo=info)
    with pytest.warns(UserWarning, match=r"its primaries \(cHRM\) span no colours, and it is taken for sRGB"):
        assert np.array_equal(np.asarray(Panorama.open(tmp_path / "a.png").image), colours())


@pytest.mark.parametrize(
    ("chunks", "space"),
    [
        ({b"cICP": bytes((12, 13, 0, 1))}, "Display P3"),
        (ADOBE, "Adobe RGB"),
        ({b"gAMA": struct.pack(">I", 16667)}, "steep"),
        ({b"cICP": bytes((12, 13, 0, 1)), b"sRGB": b"\0", **ADOBE}, "Display P3"),
        # Those of nearly every picture; sRGB outright goes before the others; what cannot be is not believed.
        ({b"gAMA": struct.pack(">I", 45455), b"cHRM": points("steep")}, None),
        ({b"sRGB": b"\0", **ADOBE}, None),
        ({b"cHRM": points("Adobe RGB")}, None),
        ({b"cICP": bytes((1, 13, 0, 1)), **ADOBE}, None),
        ({b"gAMA": bytes(4)}, None),
    ],
)
def test_what_a_png_says_of_its_colours_without_a_profile_is_heard(tmp_path, chunks, space):
    info = PngImagePlugin.PngInfo()
    for kind, data in chunks.items():
        info.add(kind, data)
    Image.fromarray(colours()).save(tmp_path / "a.png", pnginfo=info)
    panorama = Panorama.open(tmp_path / "a.png")
    found = np.asarray(panorama.image)
    assert bool(panorama.profile) == (space is not None)
    if space is None:
        assert np.array_equal(found, colours())
    else:
        assert np.quantile(np.abs(found - in_srgb(colours(), space)), 0.9) < 3
        assert np.abs(found.astype(int) - colours()).max() > 20


@pytest.mark.parametrize(("code", "why"), [((9, 16, 0, 1), "brighter .* \\(PQ\\)"), ((4, 13, 0, 1), "cICP 4, 13")])
def test_colours_that_cannot_be_converted_are_told(tmp_path, code, why):
    info = PngImagePlugin.PngInfo()
    info.add(b"cICP", bytes(code))
    Image.fromarray(colours()).save(tmp_path / "a.png", pnginfo=info)
    with pytest.warns(UserWarning, match=rf"a.png opens, but its?.*{why}"):
        assert np.array_equal(np.asarray(Panorama.open(tmp_path / "a.png").image), colours())


def test_srgb_itself_changes_no_pixel(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(colours()).save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(np.asarray(Panorama.open(tmp_path / "a.png").image), colours())


def test_a_picture_given_with_its_profile_is_converted_too():
    image = Image.fromarray(colours())
    image.info["icc_profile"] = profile("Adobe RGB")
    converted = np.asarray(Panorama(image=image).image)
    assert np.quantile(np.abs(converted - in_srgb(colours(), "Adobe RGB")), 0.9) < 2
    assert image.info["icc_profile"], "the picture that was given is left alone"


def test_a_photo_given_with_its_profile_is_converted_too():
    image = Image.fromarray(colours())
    image.info["icc_profile"] = profile("Adobe RGB")
    photo = Photo(image, fov=60)
    assert np.abs(np.asarray(photo.image) - np.asarray(Panorama(image).image).astype(int)).max() == 0
    assert np.abs(np.asarray(photo.image).astype(int) - colours()).max() > 3


def test_transparency_palettes_and_grey_fit_a_profile_of_colours(tmp_path):
    expected = in_srgb(np.array([[200.0, 30, 40]]), "Display P3")
    for mode in ("RGBA", "P"):
        Image.new("RGB", (64, 32), (200, 30, 40)).convert(mode, palette=Image.Palette.ADAPTIVE).save(
            tmp_path / "a.png", icc_profile=profile("Display P3")
        )
        assert np.abs(np.asarray(Panorama.open(tmp_path / "a.png").image)[0, :1] - expected).max() < 3
    Image.new("L", (64, 32), 90).save(tmp_path / "a.png", icc_profile=profile("Display P3"))
    assert np.abs(np.asarray(Panorama.open(tmp_path / "a.png").image)[0, 0].astype(int) - 90).max() <= 1


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"nothing", "it is damaged"), (profile("Adobe RGB")[:300], "it is damaged"), (b"", None),
     (profile("Adobe RGB", space=b"CMYK"), "(it is of CMYK channels|it is damaged)")],
)  # fmt: skip
def test_a_profile_that_cannot_be_used_is_told(tmp_path, data, why, recwarn):
    Image.fromarray(colours()).save(tmp_path / "a.png", icc_profile=data)
    if why is None:
        assert Panorama.open(tmp_path / "a.png").profile == ""
        return
    with pytest.warns(UserWarning, match=rf"opens without its colour profile, and is taken for sRGB: {why}"):
        panorama = Panorama.open(tmp_path / "a.png")
    assert np.array_equal(np.asarray(panorama.image), colours())


def test_a_camera_s_adobe_rgb_without_a_profile_is_told(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    Image.fromarray(colours()).save(tmp_path / "a.jpg", exif=exif)
    with pytest.warns(UserWarning, match="its EXIF says Adobe RGB and it holds no colour profile"):
        Panorama.open(tmp_path / "a.jpg")


def test_the_viewer_shows_the_converted_picture_and_leaves_others_as_they_are(tmp_path):
    Image.new("RGB", (64, 32), (40, 200, 60)).save(tmp_path / "a.jpg", icc_profile=profile("Display P3"))
    page = write_viewer(tmp_path / "a.jpg", tmp_path / "a.html").read_text()
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])))
    assert not shown.info.get("icc_profile")
    assert np.abs(np.asarray(shown)[0, 0] - in_srgb(np.array([[40, 200, 60]]), "Display P3")).max() < 5
