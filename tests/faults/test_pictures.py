"""Pictures that are made to harm, or are none: one sentence wherever a picture is opened, and little memory."""

import os
import re
import struct
import zlib

import pytest
from command_line import dit360, python
from PIL import Image

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, width=8, height=4, pixels=None):
    """A PNG file of a grey panorama, with more chunks before its pixels."""
    if pixels is None:
        pixels = zlib.compress((b"\0" + bytes([128] * 3 * width)) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb(mebibytes):
    """That many MiB of zeros, as zlib writes them: a thousandth of it."""
    packer = zlib.compressobj(9, wbits=-15)
    one = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # it may be repeated
    checksum = (mebibytes * 2**20 % 65521) << 16 | 1
    return b"\x78\xda" + one * mebibytes + packer.flush() + struct.pack(">I", checksum)


def xmp(packet):
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)


def settings(text):
    return (
        b'<r xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:d="urn:dit360:panorama:1.0#">'
        b"<rdf:Description><d:Settings>" + text + b"</d:Settings></rdf:Description></r>"
    )


GIBIBYTE = bomb(1024)
BEFORE = xmp(settings(b'{"prompt": "a harbour"}'))
UNSAFE = (
    r"it has 60000×{0} pixels, more than the 179 million that are opened unasked; resize it, or, if you trust it, set "
    r"DIT360_MAX_PIXELS={1} in the environment and run this again"
)
DAMAGED = r"the picture is damaged or cannot be read \({}.*\); make or download it again"
NONE = "it is not a JPEG, PNG, WebP, AVIF, TIFF or OpenEXR picture; convert it first"
DEVICE = "it is a device or a pipe, and no file; save the picture first"
LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "' + b"&a;" * 99 + b'">]><x>&b;</x>'

REFUSED = {
    "60000×60000.png": (png(width=60_000, height=60_000, pixels=b""), UNSAFE.format(60000, 3_600_000_000)),
    "60000×30000.png": (png(width=60_000, height=30_000, pixels=b""), UNSAFE.format(30000, 1_800_000_000)),
    "gibibyte-of-xmp.png": (
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + GIBIBYTE)),
        DAMAGED.format("Decompressed data too large"),
    ),
    "gibibyte-of-text.png": (
        png(chunk(b"zTXt", b"Comment\0\0" + GIBIBYTE)),
        DAMAGED.format("Decompressed data too large"),
    ),
    "gibibyte-of-profile.png": (
        png(chunk(b"iCCP", b"profile\0\0" + GIBIBYTE)),
        DAMAGED.format("Decompressed data too large"),
    ),
    "many-texts.png": (
        png(*[chunk(b"zTXt", b"C\0\0" + bomb(1))] * 100),
        DAMAGED.format("Too much memory used in text chunks"),
    ),
    "cut.jpg": (None, DAMAGED.format("image file is truncated")),
    "gif.png": (None, NONE),
    "bmp.png": (None, NONE),
    "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="4"/>', NONE),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 4\n", NONE),
    "empty.png": (b"", NONE),
    "noise.webp": (bytes(range(256)) * 9, NONE),
    "folder.png": (None, "it is a folder; name the picture in it"),
    "pipe.png": (None, DEVICE),
    "zeros.png": (None, DEVICE),
    "circle.png": (None, "it is a link that leads in a circle; name the picture itself"),
    "nowhere.png": (None, "there is no such file; check the name"),
}
OPENED = {
    "gibibyte-of-pixels.png": (png(pixels=GIBIBYTE), ""),
    "deep-xml.png": (png(xmp(b"<a>" * 100_000 + b"</a>" * 100_000)), ""),
    "laughs.png": (png(xmp(LAUGHS)), "Warning: laughs.png opens without its settings: .*declares a DOCTYPE"),
    "deep-settings.png": (png(xmp(settings(b"[" * 100_000))), "Warning: .* settings in the metadata are not JSON"),
    "large-number.png": (png(xmp(settings(b'{"seed":' + b"9" * 10_000 + b"}"))), "Warning: .*are not JSON"),
    # Texts that are called as Pillow calls what it found in a file: they are texts.
    **{
        f"text-{name}-{kind.decode()}.png": (png(chunk(kind, name.encode() + between + b"a text"), BEFORE), "")
        for name, kind, between in (
            ("xmp", b"tEXt", b"\0"),
            ("xmp", b"iTXt", b"\0\0\0\0\0"),
            ("icc_profile", b"iTXt", b"\0\0\0\0\0"),
            ("icc_profile", b"tEXt", b"\0"),
            ("exif", b"tEXt", b"\0"),
            ("transparency", b"tEXt", b"\0"),
            ("interlace", b"iTXt", b"\0\0\0\0\0"),
            ("gamma", b"zTXt", b"\0\0" + zlib.compress(b"1")),
        )
    },
    "profile-damaged.png": (
        png(chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile"))),
        "Warning: .* is taken for sRGB",
    ),
    "profile-not-zipped.png": (png(chunk(b"iCCP", b"p\0\0no profile")), "Warning: .* is taken for sRGB"),
    **{
        f"settings-{number}.png": (png(xmp(settings(text))), "")
        for number, text in enumerate(
            (
                b'{"requested": 1, "used": [1, 2], "versions": "3"}',
                b'{"used": null, "prompt": 7}',
                b'{"used": true, "requested": {}, "versions": {"torch": {"used": 3}}}',
                b'{"used": {"seed": NaN, "guidance": Infinity, "steps": -Infinity, "eta": 1e999}}',
            )
        )
    },
    "settings-are-a-list.png": (png(xmp(settings(b"[1]"))), "Warning: .*are not a JSON object"),
    "settings-half-a-character.png": (png(xmp(settings(b'{"prompt": "\\ud800"}'))), ""),
    "large-exif.png": (png(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 2**21)), ""),
}
VIEWED = ("text-xmp-tEXt.png", "text-icc_profile-iTXt.png", "settings-3.png", "profile-damaged.png")
POSIX = ("pipe.png", "zeros.png", "circle.png")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    desk = tmp_path_factory.mktemp("desk")
    for name, (data, _) in {**REFUSED, **OPENED}.items():
        if data is not None:
            (desk / name).write_bytes(data)
    grey = Image.effect_noise((64, 32), 90).convert("RGB")
    grey.save(desk / "gif.png", "GIF")
    grey.save(desk / "bmp.png", "BMP")
    grey.save(desk / "cut.jpg")
    (desk / "cut.jpg").write_bytes((desk / "cut.jpg").read_bytes()[:-200])
    (desk / "folder.png").mkdir()
    if os.name != "nt":
        os.mkfifo(desk / "pipe.png")
        (desk / "zeros.png").symlink_to("/dev/zero")
        (desk / "circle.png").symlink_to("circle.png")
    return desk


@pytest.fixture(scope="module")
def told(desk):
    """What each command that opens a picture says of each, by one process that cannot import torch."""
    commands = {}
    for name in REFUSED:
        if os.name == "nt" and name in POSIX:
            continue
        commands["inspect", name] = ["inspect", name]
        commands["view", name] = ["view", name, "-o", "new.html"]
        commands["generate", name] = ["generate", "a castle", "--image", name, "--denoise", "0.5", "-o", "new.png"]
    for name in OPENED:
        commands["opened", name] = ["inspect", name]
    for name in VIEWED:
        commands["viewed", name] = ["view", name, "-o", f"../{desk.name}.html", "--force"]
    before = sorted(os.listdir(desk))
    told = dict(zip(commands, dit360(*commands.values(), cwd=desk, without=HEAVY), strict=True))
    assert sorted(os.listdir(desk)) == before
    return told


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["inspect", "view", "generate"])
def test_a_picture_that_is_none_or_made_to_harm_is_one_sentence(told, command, name):
    if (command, name) not in told:
        pytest.skip("Windows has no such files")
    said = told[command, name]
    assert said.code == 2, said
    assert re.fullmatch(rf"Error: Cannot open {name}: {REFUSED[name][1]}\.\n", said.err), said.err


@pytest.mark.parametrize("name", OPENED)
def test_what_lies_around_the_pixels_does_no_harm(told, name):
    said = told["opened", name]
    assert said.code == 0, said
    assert "8×4" in said.out
    assert re.fullmatch(rf"({OPENED[name][1]}[^\n]*\n)?" if OPENED[name][1] else "", said.err), said.err


@pytest.mark.parametrize("name", VIEWED)
def test_it_is_viewed_as_well(told, name):
    assert told["viewed", name].code == 0, told["viewed", name]


@pytest.mark.parametrize("name", [name for name in OPENED if name.startswith("text-")])
def test_a_text_by_a_name_of_pillow_s_hides_nothing(told, name):
    assert "a harbour" in told["opened", name].out


def test_settings_that_hold_anything_are_shown(told):
    assert re.search(r"requested +1 *\n", told["opened", "settings-0.png"].out)
    assert re.search(r"used +\[1, 2\] *\n", told["opened", "settings-0.png"].out)
    assert re.search(r"used seed +NaN *\n", told["opened", "settings-3.png"].out)
    assert re.search(r"used eta +1e999 *\n", told["opened", "settings-3.png"].out)


def test_no_picture_makes_much_memory_be_taken(desk):
    code = (
        "import resource, warnings\n"
        "from pathlib import Path\n"
        "from PIL import Image, ImageOps\n"
        "from dit360_core.errors import InputError\n"
        "from dit360_core.panorama.picture import Panorama\n"
        "warnings.simplefilter('ignore')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for file in sorted(Path().iterdir()):\n"
        "    try: Panorama.open(file)\n"
        "    except InputError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    said = python(code, cwd=desk, fresh=True)
    assert int(said.stdout) < 256, f"{said.stdout} MiB, {said.stderr}"  # Pillow allows 64 MiB of texts
