"""The picture object: saved whole or not at all, read back with its settings, turned and looked into."""

import errno
import math
import os
import re
import struct
import subprocess
import sys
import warnings
import webbrowser
import zlib
from contextlib import suppress
from pathlib import Path

import attrs
import numpy as np
import pytest
from dit360_core.errors import Dit360Error, InputError
from dit360_core.panorama import metrics
from dit360_core.panorama.metadata import SHORTENED, parse_xmp
from dit360_core.panorama.opening import read_picture
from dit360_core.panorama.picture import Panorama, check_save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

FORMATS = (".jpg", ".jpeg", ".webp", ".png")  # of the others: test_formats.py
SETTINGS = {"prompt": 'a "quiet" <harbour> & 🏔\n', "seed": 7, "used": {"guidance": 2.8, "lora": None}}


def direction(yaw: np.ndarray | float, pitch: np.ndarray | float) -> np.ndarray:
    """Unit vector (…, 3) to the right, up and ahead, of angles in degrees."""
    yaw, pitch = np.broadcast_arrays(np.radians(yaw), np.radians(pitch))
    return np.stack((np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)), axis=-1)


def colour(towards: np.ndarray) -> np.ndarray:
    """Colours that tell a direction and change evenly over the whole sphere, 0 … 255."""
    return 127.5 * (towards + 1)


def picture(height: int = 32) -> Image.Image:
    yaw = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 360
    pitch = (0.5 - (np.arange(height) + 0.5) / height) * 180
    return Image.fromarray(colour(direction(yaw[None, :], pitch[:, None])).round().astype(np.uint8))


BIG = Panorama(image=picture(256))


@pytest.fixture
def panorama() -> Panorama:
    return Panorama(image=picture(), settings=SETTINGS)


def leftovers(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------------------------- the object


def test_it_tells_its_size(panorama):
    assert (panorama.width, panorama.height, panorama.size) == (64, 32, (64, 32))
    assert repr(panorama) == "<Panorama 64×32, settings: prompt, seed, used>"


def test_settings_are_an_independent_copy():
    given_settings = {"sizes": (1, 2), "nested": {}}
    panorama = Panorama(image=picture(), settings=given_settings)
    given_settings["nested"]["late"] = 1
    assert panorama.settings == {"sizes": [1, 2], "nested": {}}


@pytest.mark.parametrize(
    ("image", "why"),
    [(Image.new("RGB", (64, 33)), "64×33"), (Image.new("RGBA", (64, 32)), "RGBA"), (Image.new("L", (64, 32)), "RGB")],
)
def test_what_is_no_panorama_is_refused(image, why):
    with pytest.raises(InputError, match=why):
        Panorama(image=image)


def test_settings_that_are_not_json_are_refused():
    with pytest.raises(InputError, match="must be JSON"):
        Panorama(image=picture(), settings={"path": Path(".")})


# ------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("suffix", [*FORMATS, ".JPG"])
def test_a_saved_file_gives_back_picture_and_settings(panorama, tmp_path, suffix):
    path = panorama.save(tmp_path / f"a{suffix}")
    back = Panorama.open(path)
    assert back.settings == SETTINGS
    assert metrics.ws_psnr(np.asarray(back.image), np.asarray(panorama.image)) > (1e9 if suffix == ".png" else 30)
    assert leftovers(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_saved_file_holds_gpano(panorama, tmp_path, suffix):
    with Image.open(panorama.save(tmp_path / f"a{suffix}")) as file:
        file.load()
        found = parse_xmp(file.info["xmp"])
    assert found.gpano["ProjectionType"] == "equirectangular"
    assert found.gpano["FullPanoWidthPixels"] == "64"
    assert found.creator_tool.startswith("dit360")


def test_png_metadata_is_uncompressed_and_before_the_pixels(panorama, tmp_path):
    # Where tools look that know no PNG and search the first kilobytes of a file for "<?xpacket".
    data = panorama.save(tmp_path / "a.png").read_bytes()
    assert data.index(b"XML:com.adobe.xmp\0\0\0\0\0<?xpacket") < data.index(b"IDAT")


def test_jpeg_keeps_the_full_colour_resolution(panorama, tmp_path):
    with Image.open(panorama.save(tmp_path / "a.jpg")) as file:
        assert [sampling for _, *sampling, _ in file.layer] == [[1, 1]] * 3


def test_quality_reaches_the_encoder(panorama, tmp_path):
    for suffix in (".jpg", ".webp"):
        small = panorama.save(tmp_path / f"small{suffix}", quality=10).stat().st_size
        assert small < panorama.save(tmp_path / f"large{suffix}", quality=100).stat().st_size


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_prompt_of_200_kb_is_saved_cut_and_marked(tmp_path, suffix):
    panorama = Panorama(image=picture(), settings={"prompt": "harbour " * 25_000, "seed": 7})
    with pytest.warns(UserWarning, match="the prompt is shortened in the file; keep the whole elsewhere") as warned:
        saved = panorama.save(tmp_path / f"a{suffix}")
    assert warned[0].filename == __file__  # whoever saved it
    back = Panorama.open(saved).settings
    assert back["prompt"].endswith(SHORTENED)
    assert len(back["prompt"]) > 60_000
    assert back["seed"] == 7
    assert len(panorama.settings["prompt"]) == 200_000


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_saved_file_has_the_permissions_of_any_new_file(panorama, tmp_path):
    other = tmp_path / "other"
    other.touch()
    assert panorama.save(tmp_path / "a.jpg").stat().st_mode == other.stat().st_mode


def test_an_existing_file_is_kept_without_force(panorama, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        panorama.save(path)
    assert path.read_bytes() == b"precious"
    panorama.save(path, force=True)
    assert Panorama.open(path).settings == SETTINGS


def test_a_link_is_followed(panorama, tmp_path):
    (tmp_path / "real").mkdir()
    try:
        (tmp_path / "a.png").symlink_to(tmp_path / "real" / "b.png")
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    panorama.save(tmp_path / "a.png", force=True)
    assert (tmp_path / "a.png").is_symlink()
    assert leftovers(tmp_path / "real") == ["b.png"]


def test_the_longest_file_name_works(panorama, tmp_path):
    panorama.save(tmp_path / ("a" * 251 + ".png"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.gif", r"\.jpg, \.jpeg, \.webp, \.png"),
        ("a", "suffix"),
        ("missing/a.jpg", "does not exist"),
        ("file/a.jpg", "does not exist"),
        ("folder.png", "is a folder"),
    ],
)
def test_an_impossible_path_is_told_in_one_sentence(panorama, tmp_path, name, why):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for refuse in (panorama.save, check_save):
        with pytest.raises(InputError, match=rf"Cannot write .*{why}[^.\n]*\.") as caught:
            refuse(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert leftovers(tmp_path) == ["file", "folder.png"]


def test_check_save_tells_the_format_and_writes_nothing(tmp_path):
    assert [check_save(tmp_path / f"a{suffix}") for suffix in FORMATS] == ["JPEG", "JPEG", "WEBP", "PNG"]
    assert leftovers(tmp_path) == []


def test_a_folder_that_may_not_be_written_to_is_told(panorama, tmp_path, monkeypatch):
    opened = Path.open

    def refuse(path, *how, **more):
        if path.is_relative_to(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no permission stops
    with pytest.raises(InputError, match="Permission denied in the folder"):
        panorama.save(tmp_path / "a.jpg")


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Dit360Error),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_an_interruption_leaves_the_old_file_and_nothing_else(panorama, tmp_path, monkeypatch, stage, failure, told):
    path = panorama.save(tmp_path / "a.png")
    old = path.read_bytes()

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(told):
        Panorama(image=picture(16)).save(path, force=True)
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == ["a.png"]


@pytest.mark.parametrize("quality", [0, 101, 95.0, True, "high"])
def test_an_impossible_quality_is_refused(panorama, tmp_path, quality):
    with pytest.raises(InputError, match="1 to 100"):
        panorama.save(tmp_path / "a.jpg", quality=quality)
    assert leftovers(tmp_path) == []


def test_a_picture_too_large_for_its_format_is_refused(tmp_path):
    panorama = Panorama(image=Image.new("RGB", (16_384, 8_192)))
    with pytest.raises(InputError, match=r"16383 pixels a side.*\.png"):
        panorama.save(tmp_path / "a.webp")


# ------------------------------------------------------------------------------------------------- opening


def test_a_missing_file_a_folder_and_a_text_are_told(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for name, why in [
        ("none.jpg", "no such file"),
        ("", "is a folder"),
        ("text.jpg", "not a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR"),
        ("empty.png", "not a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR"),
    ]:
        with pytest.raises(InputError, match=rf"^Cannot open .*{why}.*\.$"):
            Panorama.open(tmp_path / name)


def refusing(monkeypatch, number):
    """Opening any file fails with this number from now on."""

    def refuse(path, *args, **how):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "you have no permission to read it; change the permissions of the file or its folder"),
        (errno.EPERM, "you have no permission to read it; change the permissions of the file or its folder"),
        (errno.EIO, "its disk or network drive fails; see that it is there"),
        (errno.EBUSY, "the system does not open it (Device or resource busy); copy it elsewhere and name the copy"),
    ],
)
def test_a_picture_that_the_system_does_not_open_is_not_said_to_be_damaged(
    panorama, tmp_path, monkeypatch, number, said
):
    path = panorama.save(tmp_path / "a.png")
    refusing(monkeypatch, number)
    with pytest.raises(InputError, match=re.escape(f"Cannot open {path}: {said}")):
        Panorama.open(path)


def test_a_disk_that_fails_while_a_picture_is_read_is_not_said_to_be_damage(panorama, tmp_path, monkeypatch):
    path = panorama.save(tmp_path / "a.png")

    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(InputError, match="its disk or network drive fails"):
        Panorama.open(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows words these otherwise")
def test_a_name_that_leads_to_no_file_is_told_with_what_is_wrong_with_it(tmp_path):
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "file").touch()
    for name, said in [
        ("circle.png", "it is a link that leads in a circle; name the picture itself"),
        ("x" * 300 + ".png", "the name is too long for a file"),
        ("file/a.png", "there is no such file"),
        ("a\0.png", "no file can be called so"),
    ]:
        with pytest.raises(InputError, match=said):
            Panorama.open(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_a_truncated_file_is_told_wherever_it_ends(panorama, tmp_path, suffix):
    data = panorama.save(tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    # The last bytes are PNG's end mark and JPEG's; all pixels are there without them.
    for length in [*range(64), *range(64, len(data) - 16, 29)]:
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"^Cannot open .*\.$"):
            Panorama.open(cut)


@given(st.sampled_from([".jpg", ".webp", ".png"]), st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_raises_nothing_but_input_errors(tmp_path_factory, suffix, seed, count):
    path = tmp_path_factory.mktemp("damage") / f"a{suffix}"
    data = bytearray(Panorama(image=picture(8), settings=SETTINGS).save(path).read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(data), count):
        data[at] = random.integers(256)
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told by a warning: settings that cannot be read
        with suppress(InputError):
            Panorama.open(path)


def test_a_decompression_bomb_is_told(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 100_000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"200000×100000 pixels, .* DIT360_MAX_PIXELS=20000000000"):
        Panorama.open(tmp_path / "bomb.png")


def test_a_picture_that_is_no_panorama_is_told_with_its_name(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match=r"photo\.jpg.*30×20"):
        Panorama.open(tmp_path / "photo.jpg")


def test_panoramas_of_other_programs_open_without_settings(tmp_path):
    for mode in ("L", "P", "RGBA"):
        picture().convert(mode).save(tmp_path / "a.png")
        assert Panorama.open(tmp_path / "a.png").settings == {}
    picture().convert("CMYK").save(tmp_path / "a.jpg")
    assert Panorama.open(tmp_path / "a.jpg").image.mode == "RGB"


def test_sixteen_bit_grey_does_not_turn_white(tmp_path):
    Image.fromarray(np.full((8, 16), 30_000, np.uint16)).save(tmp_path / "a.png")
    back = Panorama.open(tmp_path / "a.png")
    assert back.image.getpixel((3, 3)) == (117, 117, 117)
    assert back.floats[3, 3] == pytest.approx([30_000 / 65_535] * 3)


def test_a_camera_s_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture().rotate(180).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(Panorama.open(tmp_path / "a.png").image), np.asarray(picture()))


def test_unreadable_metadata_is_told_by_a_warning(tmp_path):
    picture().save(tmp_path / "a.jpg", xmp=b"<!DOCTYPE x><x/>")
    with pytest.warns(UserWarning, match=r"without its settings: .*DOCTYPE"):
        assert Panorama.open(tmp_path / "a.jpg").settings == {}


# ------------------------------------------------------------------------------------------------- turning, looking


@given(st.floats(-1000, 1000))
@settings(deadline=None)
def test_turning_back_restores_the_picture(degrees):
    panorama = Panorama(image=picture(16), settings=SETTINGS)
    back = panorama.roll(degrees).roll(-degrees)
    assert back.image.tobytes() == panorama.image.tobytes()
    assert back.settings == SETTINGS


@pytest.mark.parametrize("yaw", [0, 90, 135, 180, -90])
def test_a_turn_and_a_camera_agree_about_the_right(panorama, yaw):
    turned, looked = panorama.roll(yaw).perspective(0, 10, 70, 48, 32), panorama.perspective(yaw, 10, 70, 48, 32)
    assert np.abs(np.asarray(turned).astype(int) - np.asarray(looked)).max() <= 1


@given(st.floats(-720, 720), st.floats(-90, 90), st.floats(5, 150), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_every_pixel_of_a_view_shows_its_direction(yaw, pitch, fov, width, height):
    view = np.asarray(BIG.perspective(yaw, pitch, fov, width, height)).astype(float)
    pixel = 2 * math.tan(math.radians(fov / 2)) / max(width, height)
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) * pixel, (height / 2 - np.arange(height) - 0.5) * pixel)
    turn = np.stack((direction(yaw + 90, 0), direction(yaw, pitch + 90), direction(yaw, pitch)))
    rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ turn
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    # 1.5 levels of rounding, and what a pixel's mean differs from its centre: the second derivative, up to 1 a radian².
    assert np.abs(view - colour(rays)).max() <= 1.5 + 127.5 * pixel**2 / 8


@pytest.mark.parametrize(("yaw", "pitch"), [(180, 0), (-180, 50), (0, 90), (77, -90)])
def test_a_view_over_the_meridian_or_a_pole_is_as_smooth_as_any(yaw, pitch):
    def roughness(*at: float) -> int:
        view = np.asarray(BIG.perspective(*at, 20, 96, 96)).astype(int)
        return max(np.abs(np.diff(view, axis=axis)).max() for axis in (0, 1))

    assert roughness(yaw, pitch) <= roughness(20, 20) + 1


@pytest.mark.parametrize(
    "wrong",
    [{"yaw": math.nan}, {"pitch": math.inf}, {"fov": 0}, {"fov": 180}, {"fov": math.nan}, {"width": 0}, {"height": -1}],
)
def test_an_impossible_view_is_refused(panorama, wrong):
    with pytest.raises(InputError):
        panorama.perspective(**wrong)
    with pytest.raises(InputError):
        panorama.roll(math.nan)


def test_seam_and_poles_are_the_metrics_of_the_pixels(panorama):
    pixels = np.asarray(panorama.image)
    assert panorama.seam == metrics.seam(pixels)
    assert panorama.poles == metrics.pole_constancy(pixels)


def test_a_notebook_shows_a_small_jpeg(tmp_path):
    data = Panorama(image=Image.new("RGB", (4096, 2048)), settings={})._repr_jpeg_()
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as file:
        assert (file.format, file.size) == ("JPEG", (1024, 512))


# ------------------------------------------------------------------------------------------------- the viewer


def test_view_writes_a_page_and_opens_it(panorama, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    page = panorama.view(tmp_path / "a page.html")
    assert opened == [page.as_uri()]
    panorama.view(tmp_path / "b.html", open_browser=False)
    assert len(opened) == 1
    with pytest.raises(InputError, match="exists already"):
        panorama.view(page, open_browser=False)


def test_view_without_a_path_takes_a_new_temporary_file(panorama, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pages = {panorama.view(open_browser=False) for _ in range(2)}
    assert len(pages) == 2
    assert all(tmp_path in page.parents and page.is_file() for page in pages)


def test_a_browser_that_does_not_start_is_told(panorama, tmp_path, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    with pytest.warns(UserWarning, match=re.escape("open it yourself") + "|yourself"):
        panorama.view(tmp_path / "a.html")


def test_importing_the_panorama_imports_pillow_and_numpy_and_nothing_heavier():
    code = "import sys, dit360_core.panorama.showing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "py360convert", "scipy"} & set(loaded)


def test_what_its_format_cannot_hold_is_rescued_as_a_png_with_all_its_bits(tmp_path, monkeypatch):
    from dit360_core.panorama import picture

    fine = Panorama(Image.new("RGB", (64, 32), (26, 26, 26)), floats=np.full((32, 64, 3), 0.1002, np.float32))
    whole = picture.BY_NAME["TIFF"]
    monkeypatch.setitem(picture.BY_NAME, "TIFF", attrs.evolve(whole, longest=32))
    kept = picture.rescue(fine, tmp_path / "x.tif")
    assert kept == tmp_path / "x.png"
    assert read_picture(kept).floats is not None
