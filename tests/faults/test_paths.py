"""No name that comes from outside leads out of the folder that it is meant for."""

import contextlib
import os
import random
import re
import unicodedata
from pathlib import Path

import pytest
from dit360_core.errors import InputError
from dit360_core.system.naming import LONGEST_COMPONENT, file_within, slug_of
from hypothesis import given, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("DIT360_NAMES", "30000"))

# What is put together to names: each piece has led somebody out of a folder, or onto a device, on some system.
SEPARATORS = ("/", "/", "/", "/", "\\", "//", "\\\\", "/./", "/../", "\\..\\", "\uff0f", "\u2215", "\u2044", "\u29f8")
DOTS = ("..", ".", "...", ".. ", ". .", "..\x00", "\u2025", "\uff0e\uff0e", "\u2024\u2024", "\u2026", "%2e%2e", "..;")
ROOTS = ("/", "//", "\\", "C:", "C:\\", "c:/", "\\\\server\\share\\", "//server/share/", "\\\\?\\C:\\", "\\\\.\\",
         "~/", "~root/", "file:///", "/proc/self/root/", "/dev/", "%SystemRoot%\\", "$HOME/")  # fmt: skip
DEVICES = ("CON", "con", "Prn.jpg", "aux", "NUL", "nul.tar.gz", "COM1", "com0.png", "LPT9", "COM\u00b9",
           "LPT\u00b3.txt", "CONIN$", "conout$", "CON .x", "\uff23\uff2f\uff2e", "nul ")  # fmt: skip
ODD = ("\x00", "\n", "\r", "\x1b[2J", "\x7f", "\u202e", "\u200b", "\u200d", "\ufeff", "\ud800", "\udcff", "<", ">", ":",
       '"', "|", "?", "*", "%2f", "%5c", "%00", "%252e", "\u0338", "e\u0301", "\u0344", "\u212b", "\u2100",
       "\U000e0041", "::$DATA", ":stream", "\u00ad", "\u2028", "\ufe68", "\uff3c", "\u3000", "\xa0")  # fmt: skip
PLAIN = (
    "a",
    "town",
    "market.jpg",
    "b.png",
    "c",
    "sky",
    "\u5c71\u306e\u4e0a",
    "Stra\u00dfe",
    ".hidden",
    "x.",
    " y",
    "z ",
    "\U0001f3d4",
    "0",
)
LONG = ("n" * 255, "n" * 256, "\u5c71" * 85, "\u5c71" * 86, "\U0001f3d4" * 64, "d/" * 300, "../" * 300, "k" * 5000,
        ("n" * 200 + "/") * 30)  # fmt: skip
LINKS = ("outside", "next", "root", "up", "inside", "dangling", "dangling-out", "loop", "loop-a", "chain", "file-out",
         "file-in", "real", "real/deep", "real/out", "real/again", "plain.txt", "locked")  # fmt: skip


def laid_out(place):
    """A folder in which links lead outside, inside, nowhere and in a circle."""
    folder = place / "pictures"
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "locked").mkdir()
    (folder / "plain.txt").write_text("mine")
    (place / "secret").mkdir()
    (place / "secret" / "key.txt").write_text("secret")
    (place / "pictures-2").mkdir()
    links = {
        "next": place / "pictures-2",
        "outside": place / "secret", "root": "/", "up": "..", "inside": "real", "dangling": "nowhere",
        "dangling-out": place / "not-yet", "loop": "loop", "loop-a": "loop-b", "loop-b": "loop-a", "chain": "outside",
        "file-out": place / "secret" / "key.txt", "file-in": "plain.txt", "real/out": place / "secret",
        "real/again": "..",
    }  # fmt: skip
    try:
        for name, target in links.items():
            (folder / name).symlink_to(target)
    except OSError:
        pytest.skip("this user may not make symbolic links on Windows")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return laid_out(tmp_path_factory.mktemp("place"))


def names(count, seed=0):
    """Names that were made to lead out: two thirds of pieces, the rest of links and plain parts."""
    draw = random.Random(seed)
    pieces = (SEPARATORS, DOTS, ROOTS, DEVICES, ODD, PLAIN, PLAIN, PLAIN, LINKS)
    for number in range(count):
        if number % 3 == 0:
            parts = [draw.choice((*LINKS, *PLAIN)) for _ in range(draw.randint(1, 4))]
            name = "/".join(parts)
        else:
            name = "".join(draw.choice(draw.choice(pieces)) for _ in range(draw.randint(1, 7)))
        if number % 50 == 0:
            name = draw.choice((name + draw.choice(LONG), draw.choice(LONG) + name, draw.choice(LONG)))
        if number % 7 == 0:
            name = unicodedata.normalize(draw.choice(("NFD", "NFKD", "NFKC")), name)
        if number % 11 == 0:
            name = name.swapcase()
        yield name


def judged(folder, name):
    """Where the name leads, or None if it is refused in one sentence; anything else is raised."""
    try:
        return file_within(folder, name)
    except InputError as error:
        sentence = str(error)
        assert re.fullmatch(r"[^\n]+\.", sentence), repr(sentence)
        assert sentence.isprintable(), repr(sentence)
        return None


def windows_would_take(name):
    """What Microsoft's "Naming Files" allows, written once more and otherwise than in the program."""
    for part in name.split("/"):
        stem = unicodedata.normalize("NFKC", part).upper().split(".")[0].strip()
        devices = {
            "CON",
            "PRN",
            "AUX",
            "NUL",
            "CONIN$",
            "CONOUT$",
            *(f"{p}{n}" for p in ("COM", "LPT") for n in range(10)),
        }
        if not part or stem in devices or part != part.strip().rstrip(".") or set(part) & set('\\<>:"|?*'):
            return False
    return not any(ord(c) < 32 for c in name)


def assert_inside(folder, path, name):
    """By what the operating system says of the place, and by the rules of the other one."""
    root, real = os.path.realpath(folder), os.path.realpath(path)
    assert real.startswith(root + os.sep), (name, real)
    assert not os.path.islink(path), name
    relative = str(path)[len(str(folder)) + 1 :].replace(os.sep, "/")
    assert relative == unicodedata.normalize("NFC", name), name
    assert windows_would_take(relative), name
    assert ".." not in relative.split("/"), name
    assert all(unicodedata.category(c)[0] != "C" or unicodedata.category(c) in ("Cn", "Co") for c in relative), ascii(
        name
    )
    assert all(len(os.fsencode(part)) <= LONGEST_COMPONENT for part in relative.split("/")), name


def test_of_many_hostile_names_none_leads_out_of_the_folder(tmp_path):
    folder = laid_out(tmp_path)
    taken = {}
    for name in names(CASES):
        path = judged(folder, name)
        if path is not None:
            assert_inside(folder, path, name)
            taken[path] = name
    assert len(taken) > 1000  # the rules are not so strict that nothing is tried
    written = 0
    for path, name in random.Random(1).sample(sorted(taken.items()), 1000):
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):  # of one written before
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            written += 1
            assert Path(os.path.realpath(path)).is_relative_to(folder), name
    assert written > 500
    assert sorted(os.listdir(tmp_path)) == ["pictures", "pictures-2", "secret"]
    assert os.listdir(tmp_path / "pictures-2") == []
    assert [file.read_text() for file in (tmp_path / "secret").iterdir()] == ["secret"]


@settings(max_examples=500, deadline=None)
@given(name=st.text() | st.lists(st.sampled_from((*DOTS, *ODD, *PLAIN, *LINKS)) | st.text(max_size=3)).map("/".join))
def test_any_text_names_a_file_in_the_folder_or_is_refused(place, name):
    path = judged(place, name)
    if path is not None:
        assert_inside(place, path, name)


REFUSED = {
    "empty": ("", "it is empty; write a name such as town/market.jpg"),
    "absolute": ("/etc/passwd", "begins at the root of a disk"),
    "absolute on Windows": ("\\x.jpg", "begins at the root of a disk"),
    "a drive": ("C:x.jpg", "names a drive of Windows"),
    "a drive's root": ("c:/x.jpg", "names a drive of Windows"),
    "UNC": ("\\\\server\\share\\x.jpg", "names another machine"),
    "UNC by slashes": ("//server/share/x.jpg", "names another machine"),
    "a backslash": ("town\\market.jpg", r"holds a backslash, which only Windows .* write / between folders"),
    "the folder above": ("town/../../x.jpg", r"holds '\.\.', which leads to another folder"),
    "the folder above, fullwidth": ("\uff0e\uff0e/x.jpg", "leads to another folder"),
    "this folder": ("./x.jpg", r"holds '\.', which leads to another folder"),
    "an empty part": ("town//x.jpg", "part of it between two / is empty"),
    "a folder's end": ("town/", "part of it between two / is empty"),
    "NUL": ("x\x00.jpg", r"holds the character U\+0000, which cannot be seen"),
    "a line break": ("x\n.jpg", r"holds the character U\+000A"),
    "reading backwards": ("x\u202egpj.exe", r"holds the character U\+202E"),
    "a lone surrogate": ("x\udcff.jpg", r"holds the character U\+DCFF"),
    "a stream": ("x.jpg:hidden", "holds :, which Windows forbids"),
    "a question mark": ("why?.jpg", r"holds \?, which Windows forbids"),
    "a device": ("town/Nul.jpg", "Windows reserves 'Nul.jpg' for a device"),
    "a device by its number": ("COM\u00b2", "Windows reserves"),
    "a device before a space": ("con .jpg", "Windows reserves"),
    "a space at the end": ("town /x.jpg", "begins or ends with a space"),
    "a dot at the end": ("x.jpg.", "ends with a dot, which Windows drops"),
    "hidden": ("town/.x.jpg", "begins with a dot, which hides it"),
    "a slash by another name": ("town\uff0fx.jpg", "looks like a separator"),
    "a part too long": ("n" * 256, "longer than 255 bytes; shorten it"),
    "all too long": ("n/" * 500 + "x.jpg", "longer than 1000 bytes; shorten it"),
    "another ending": ("x.gif", r"its ending says no known format; end it in \.jpg, \.png"),
    "no ending": ("x", "its ending says no known format"),
    "a link out": ("outside/x.jpg", "outside is a link that leads out of the folder"),
    "a link to a link out": ("chain/x.jpg", "chain is a link that leads out of the folder"),
    "a link to a folder of nearly the same name": ("next/x.jpg", "next is a link that leads out of the folder"),
    "a link above": ("up/x.jpg", "up is a link that leads out"),
    "a link out of a subfolder": ("real/out/x.jpg", "out is a link that leads out"),
    "a link to nowhere": ("dangling/x.jpg", "dangling is there and is no folder"),
    "a link in a circle": ("loop-a/x.jpg", "loop-a is there and is no folder"),
    "a file as a folder": ("plain.txt/x.jpg", "plain.txt is there and is no folder"),
    "a link to a file": ("file-out", "it is a link to another; remove it"),
    "a link to a file of one's own": ("file-in", "it is a link to another"),
    "a link in a circle at the end": ("loop", "it is a link to another"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "why"), REFUSED.values(), ids=REFUSED)
def test_a_name_that_is_no_file_in_the_folder_is_refused_in_one_sentence(place, name, why):
    endings = (".jpg", ".png") if "ending" in why else ()
    with pytest.raises(InputError, match=why) as told:
        file_within(place, name, endings=endings)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 250 + len(str(place))


TAKEN = {
    "plain": ("market.jpg", "market.jpg"),
    "in folders that are not there": ("a/b/c.jpg", "a/b/c.jpg"),
    "through a link inside": ("inside/x.jpg", "inside/x.jpg"),
    "decomposed": ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    "another script": ("\u5c71\u306e\u4e0a/\u6751\uff1f.jpg", "\u5c71\u306e\u4e0a/\u6751\uff1f.jpg"),
    "almost a device": ("console.jpg", "console.jpg"),
    "dots and spaces within": ("St. Mark's square.v2.jpg", "St. Mark's square.v2.jpg"),
    "a percent sign": ("100%2e.jpg", "100%2e.jpg"),
    "the longest": ("\u5c71" * 85, "\u5c71" * 85),
    "an ending in capitals": ("X.JPG", "X.JPG"),
}


@pytest.mark.parametrize(("name", "path"), TAKEN.values(), ids=TAKEN)
def test_what_people_call_pictures_is_taken(place, name, path):
    endings = (".jpg",) if name.lower().endswith(".jpg") else ()
    assert file_within(place, name, endings=endings) == place / path


SLUGS = {
    "A caf\u00e9 by the sea": "a-cafe-by-the-sea",
    "Troms\u00f8, \u0141\u00f3d\u017a & Stra\u00dfe": "tromso-lodz-strasse",
    "a dog's house; a dog\u2019s life": "a-dogs-house-a-dogs-life",
    "an old harbour at dawn with many boats and people": "an-old-harbour-at-dawn-with-many-boats",
    "\u5c71\u306e\u4e0a\u306e\u6751 4k": "\u5c71\u306e\u4e0a\u306e\u6751-4k",
    "हिन्दी गाँव": "हिन्दी-गाँव",
    "Красная площадь": "красная-площадь",
    "../../etc/passwd": "etc-passwd",
    "CON": "panorama-con",
    "\U0001f3d4\ufe0f \U0001f469\u200d\U0001f680": "panorama",
    "": "panorama",
    "x" * 99: "x" * 40,
    "\u5c71" * 99: "\u5c71" * 33,  # 99 bytes
}  # fmt: skip


@pytest.mark.parametrize(("prompt", "slug"), SLUGS.items())
def test_a_name_made_of_a_prompt_tells_what_it_is_about(prompt, slug):
    assert slug_of(prompt) == slug


@settings(max_examples=500, deadline=None)
@given(
    prompt=st.text() | st.lists(st.sampled_from((*ROOTS, *DEVICES, *ODD, *DOTS)) | st.text(max_size=4)).map("".join),
    longest=st.integers(8, 120),
)
def test_a_name_made_of_any_prompt_is_a_name_in_the_folder(tmp_path_factory, prompt, longest):
    place = tmp_path_factory.getbasetemp()
    slug = slug_of(prompt, longest=longest)
    assert 0 < len(slug) <= longest
    assert len(slug.encode()) <= 100
    for name in (slug, f"{slug}.jpg", f"{slug}-12.webp"):
        assert_inside(place, file_within(place, name), name)
