"""Exports for engines and back: names, turns, files, metadata, and what is refused."""

import base64
import json
import math
import re
import warnings

import attrs
import numpy as np
import pytest
from command_line import dit360
from dit360_core.errors import InputError
from dit360_core.panorama import projecting
from dit360_core.panorama.cubemaps import LAYOUTS, laid_out, taken_apart
from dit360_core.panorama.exporting import Export, write
from dit360_core.panorama.formats import check_format
from dit360_core.panorama.gpano import Area, Pose
from dit360_core.panorama.importing import panorama_of, read_faces
from dit360_core.panorama.opening import read_metadata, read_picture
from dit360_core.panorama.picture import Panorama
from dit360_core.sphere import cube
from dit360_core.system.memory import OutOfMemory
from PIL import Image
from PIL.Image import Transpose

SETTINGS = {"prompt": "a harbour at dusk", "requested": {"model": "tiny"}, "used": {"seed": 7}}
POSE = Pose(heading=120.0, pitch=3.0, view_fov=80.0, others={"CapturingSoftware": "somebody's"})
FORMS = ("faces", "cross", "strip")

COLOURS = {
    "ahead": (230, 60, 60),
    "right": (60, 200, 60),
    "behind": (60, 90, 230),
    "left": (230, 200, 40),
    "above": (40, 210, 220),
    "below": (210, 60, 210),
}
MARK = (255, 255, 255)


def _smooth(height=128):
    """An analytic picture without edges."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    longitude = ((np.arange(2 * height) + 0.5) / height - 1) * math.pi
    x = np.cos(latitude)[:, None] * np.sin(longitude)
    y = np.sin(latitude)[:, None] + 0 * longitude
    z = np.cos(latitude)[:, None] * np.cos(longitude)
    light = np.stack([np.sin(9 * x + 4 * y) * np.cos(7 * z), np.sin(8 * y + 5 * z), np.cos(6 * x * y + 7 * z)], axis=-1)
    return Image.fromarray((127.5 + 100 * light).round().astype(np.uint8))


def _labelled(height=256):
    """A colour in each of the six directions, and on each a white disc at the upper right, as a camera sees it.

    Of the views up and down the upper edge is behind and ahead, as after a nod.
    """
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    longitude = ((np.arange(2 * height) + 0.5) / height - 1) * math.pi
    right = np.cos(latitude)[:, None] * np.sin(longitude)
    up = np.sin(latitude)[:, None] + 0 * longitude
    ahead = np.cos(latitude)[:, None] * np.cos(longitude)
    # Towards, to the right and upwards in the picture of a camera that looks there.
    frames = {
        "ahead": (ahead, right, up),
        "right": (right, -ahead, up),
        "behind": (-ahead, -right, up),
        "left": (-right, ahead, up),
        "above": (up, right, -ahead),
        "below": (-up, right, ahead),
    }
    picture = np.zeros((height, 2 * height, 3), np.uint8)
    for name, (depth, x, y) in frames.items():
        inside = (depth > 0) & (np.abs(x) <= depth) & (np.abs(y) <= depth)
        picture[inside] = COLOURS[name]
        disc = inside & (np.hypot(x / np.maximum(depth, 1e-9) - 0.55, y / np.maximum(depth, 1e-9) - 0.25) < 0.2)
        picture[disc] = MARK
    return Panorama(Image.fromarray(picture), SETTINGS, pose=POSE, file="harbour.png")


LABELLED = _labelled()
SMOOTH = Panorama(_smooth(), SETTINGS, pose=POSE, file="smooth.png")


def _seen(faces, layout, direction):
    """What a lookup in a cube map shows: OpenGL 4.6 core, table 8.19, written out.

    direction: in the cube map's coordinates.
    """
    x, y, z = direction
    if max(abs(x), abs(y), abs(z)) == abs(x):
        face, s, t, depth = (0, -z, -y, x) if x > 0 else (1, z, -y, -x)
    elif max(abs(y), abs(z)) == abs(y):
        face, s, t, depth = (2, x, z, y) if y > 0 else (3, x, -z, -y)
    else:
        face, s, t, depth = (4, x, -y, z) if z > 0 else (5, -x, -y, -z)
    picture = faces[LAYOUTS[layout].faces[face]]
    column, row = (int((place / depth + 1) / 2 * picture.width) for place in (s, t))
    return picture.getpixel((column, row))


# What each engine looks up for a direction (right, up, ahead) of a new camera of it.
LOOKED_UP = {
    # No engine: x to the right, y up, z ahead.
    "plain": lambda right, up, ahead: (right, up, ahead),
    # A new camera looks along −z, x to its right; the background's shader looks up (−x, y, z).
    "threejs": lambda right, up, ahead: (-right, up, -ahead),
    # x to the right, y up, z ahead, looked up as it is.
    "unity": lambda right, up, ahead: (right, up, ahead),
    # x ahead, y to the right, z up, looked up as it is.
    "unreal": lambda right, up, ahead: (ahead, right, up),
    # x to the right, y up, −z ahead, looked up as it is: texture(source_panorama, EYEDIR).
    "godot": lambda right, up, ahead: (right, up, -ahead),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_engine_sees_the_panorama_as_it_is(layout):
    """In each direction its colour, and the disc where it is, which a turned or a mirrored face has elsewhere."""
    faces = LABELLED.faces(64, layout)
    assert list(faces) == list(LAYOUTS[layout].row)
    looking = LOOKED_UP[layout]
    towards = {  # a direction, its right and its up, each as (right, up, ahead)
        "ahead": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
        "right": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
        "behind": ((0, 0, -1), (-1, 0, 0), (0, 1, 0)),
        "left": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
        "above": ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
        "below": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    }
    for name, (middle, right, up) in towards.items():
        middle, right, up = map(np.array, (middle, right, up))
        for across, down, wanted in [(0.55, 0.25, MARK), (-0.55, 0.25, None), (0.55, -0.25, None), (0.25, 0.55, None),
                                     (-0.25, 0.55, None), (0, 0, None), (-0.25, -0.55, None)]:  # fmt: skip
            seen = _seen(faces, layout, looking(*(middle + across * right + down * up)))
            assert np.abs(np.array(seen) - (wanted or COLOURS[name])).max() < 30, (name, across, down)


def _alike(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def _turned(picture, *how):
    for each in how:
        picture = picture.transpose(each)
    return picture


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        # https://threejs.org/docs/pages/CubeTextureLoader.html: pos-x and neg-x swapped; a new camera looks along −z.
        ("threejs", {"nz": "front", "nx": "right", "pz": "back", "px": "left",
                     "py": ("up", Transpose.ROTATE_180), "ny": ("down", Transpose.ROTATE_180)}),
        # https://docs.unity3d.com/Manual/shader-skybox-6sided.html: Front [+Z], Left [+X], Right [−X].
        ("unity", {"FrontTex": "front", "LeftTex": "right", "BackTex": "back", "RightTex": "left", "UpTex": "up",
                   "DownTex": "down"}),
        # "Creating Cubemaps" of Unreal's documentation: the rotation of each; +y is to the right, x ahead.
        ("unreal", {"PosX": ("front", Transpose.ROTATE_90), "NegX": ("back", Transpose.ROTATE_270),
                    "PosY": ("right", Transpose.ROTATE_180), "NegY": "left",
                    "PosZ": ("up", Transpose.ROTATE_90), "NegZ": ("down", Transpose.ROTATE_90)}),
        # Godot's Cubemap: Z− is forward, and its shader takes the direction as it is, which mirrors.
        ("godot", {"Z-": ("front", Transpose.FLIP_LEFT_RIGHT), "X+": ("right", Transpose.FLIP_LEFT_RIGHT),
                   "Z+": ("back", Transpose.FLIP_LEFT_RIGHT), "X-": ("left", Transpose.FLIP_LEFT_RIGHT),
                   "Y+": ("up", Transpose.FLIP_TOP_BOTTOM), "Y-": ("down", Transpose.FLIP_TOP_BOTTOM)}),
    ],
)  # fmt: skip
def test_faces_are_named_and_turned_as_the_engines_documents_say(layout, wanted):
    plain, faces = LABELLED.faces(64), LABELLED.faces(64, layout)
    assert set(faces) == set(wanted)
    for name, what in wanted.items():
        source, *how = (what,) if isinstance(what, str) else what
        assert _alike(faces[name], _turned(plain[source], *how)), name
        assert not _alike(faces[name], _turned(plain[source], *how, Transpose.FLIP_LEFT_RIGHT)), name


def test_unreals_pictures_of_up_and_down_have_plus_y_at_the_top():
    """ "The side that must align with positive Y should be at the top": what is to the right."""
    faces = SMOOTH.faces(64, "unreal")
    right = np.asarray(SMOOTH.faces(64)["right"]).astype(int)
    top, bottom = np.asarray(faces["PosZ"]).astype(int)[0], np.asarray(faces["NegZ"]).astype(int)[0]
    assert np.abs(top - right[0, ::-1]).max() < 20
    assert np.abs(bottom - right[-1]).max() < 20


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_a_cross_the_edges_of_neighbours_meet(layout):
    size = 164
    cross = np.asarray(laid_out(SMOOTH.faces(size, layout), "cross", LAYOUTS[layout])).astype(int)
    assert cross.shape == (3 * size, 4 * size, 3)
    inside = max(np.abs(np.diff(cross[size : 2 * size, a + 1 : a + size - 1], axis=1)).max() for a in (0, size))
    for column in (1, 2, 3):
        step = cross[size : 2 * size, column * size] - cross[size : 2 * size, column * size - 1]
        assert np.abs(step).max() <= inside
    for row in (1, 2):
        step = cross[row * size, size : 2 * size] - cross[row * size - 1, size : 2 * size]
        assert np.abs(step).max() <= inside
    assert not cross[:size, :size].any()


def _psnr(one, other):
    difference = np.asarray(one).astype(float) - np.asarray(other)
    return 20 * math.log10(255) - 10 * math.log10((difference**2).mean())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_export_and_import_at_the_default_sizes_lose_next_to_nothing(form, layout, tmp_path):
    out = tmp_path / ("sky" if form == "faces" else "sky.png")
    files = write(SMOOTH, Export(to=form, layout=layout), out)
    assert len(files) == (6 if form == "faces" else 1)
    read = read_faces([out])
    assert (read.form, read.layout.name, read.size, read.width) == (form, layout, 84, 256)
    back = panorama_of(read)
    assert back.size == SMOOTH.size
    assert _psnr(back.image, SMOOTH.image) >= 45
    assert back.pose == POSE
    assert {name: back.settings[name] for name in SETTINGS} == SETTINGS
    assert set(back.settings) == {*SETTINGS, "imported"}
    told = back.settings["imported"]
    assert (told["form"], told["layout"], told["size"]) == (form, layout, 84)
    assert told["exported"]["from"] == {"file": "smooth.png", "width": 256, "height": 128}
    assert told["files"] == ([f"{name}.png" for name in LAYOUTS[layout].row] if form == "faces" else ["sky.png"])


def test_in_python_there_and_back_too():
    for layout in LAYOUTS:
        back = Panorama.from_faces(SMOOTH.faces(layout=layout), layout, settings={"prompt": "x"})
        assert back.size == (264, 132)  # as fine as faces of 84 pixels in their middle
        assert back.settings == {"prompt": "x"}
        assert _psnr(back.image, _smooth(132)) >= 45


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"to": "strip", "layout": "godot", "size": 8},
         {"to": "strip", "layout": "godot", "width": 48, "height": 8}),
        ({"to": "view", "yaw": 30, "roll": 5, "width": 40},
         {"to": "view", "yaw": 30, "pitch": 0, "roll": 5, "fov": 90, "width": 40, "height": 30}),
        ({"to": "little-planet", "size": 30},
         {"to": "little-planet", "yaw": 0, "fov": 270, "width": 30, "height": 30}),
    ],
)  # fmt: skip
def test_what_is_exported_keeps_its_settings_and_tells_where_it_came_from_and_is_no_panorama(
    name, asked, told, tmp_path
):
    write(SMOOTH, Export(**asked), tmp_path / name)
    metadata = read_metadata(tmp_path / name)
    assert metadata.gpano == {}
    assert {key: metadata.settings[key] for key in SETTINGS} == SETTINGS
    exported = dict(metadata.settings["exported"])
    assert exported.pop("from") == {"file": "smooth.png", "width": 256, "height": 128}
    assert exported.pop("gpano")["PoseHeadingDegrees"] == "120.0"
    assert exported == told
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (told["width"], told["height"])


def test_a_view_and_a_little_planet_are_those_of_the_panorama(tmp_path):
    write(SMOOTH, Export(to="view", yaw=20, pitch=-30, roll=40, fov=70, width=60, height=90), tmp_path / "v.png")
    with Image.open(tmp_path / "v.png") as picture:
        assert _alike(picture, SMOOTH.perspective(20, -30, 70, 60, 90, roll=40))
    write(SMOOTH, Export(to="little-planet", yaw=90, fov=200, size=50), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert _alike(picture, SMOOTH.little_planet(200, 90, 50))


def test_views_are_as_sharp_as_the_panorama_where_no_size_is_said():
    eye = Export(to="view", fov=60).camera(1024)
    assert eye.pixel <= math.pi / 1024
    assert (eye.width, eye.height) == (377, 283)
    assert Export(to="view", height=300).camera(1024).width == 400


def test_faces_are_found_by_the_ends_of_their_names(tmp_path):
    """As others call them; without metadata of ours nothing else tells the layout."""
    for layout, called in {
        "threejs": ("sky_px", "sky_nx", "sky_py", "sky_ny", "sky_pz", "sky_nz"),
        "unity": tuple(f"Dusk_{name}" for name in LAYOUTS["unity"].faces),
        "plain": ("a-RIGHT", "a-left", "a-Up", "a-down", "a-front", "a-back"),
    }.items():
        folder = tmp_path / layout
        folder.mkdir()
        faces = SMOOTH.faces(40, layout)
        for name, path in zip(LAYOUTS[layout].faces, called, strict=True):
            faces[name].save(folder / f"{path}.png")
        read = read_faces([folder])
        assert (read.layout.name, read.why) == (layout, "by their names")
        assert _psnr(panorama_of(read, 128).image, _smooth(64)) > 40
        six = sorted(folder.iterdir())
        assert {name: face.tobytes() for name, face in read_faces(six).faces.items()} == {
            name: face.tobytes() for name, face in faces.items()
        }


def test_names_of_axes_are_taken_for_a_layout_that_is_said(tmp_path):
    faces = SMOOTH.faces(40, "unreal")
    for name, called in zip(LAYOUTS["unreal"].faces, ("px", "nx", "py", "ny", "pz", "nz"), strict=True):
        faces[name].save(tmp_path / f"{called}.png")
    read = read_faces([tmp_path], "unreal")
    assert _psnr(panorama_of(read, 128).image, _smooth(64)) > 40


def test_unitys_left_is_not_everybodys(tmp_path):
    """In its layout a file called left lies at +x, to the right of a new camera."""
    for name, face in SMOOTH.faces(40, "unity").items():
        face.save(tmp_path / f"{name.removesuffix('Tex')}.png")
    assert _psnr(panorama_of(read_faces([tmp_path], "unity"), 128).image, _smooth(64)) > 40


def test_what_is_left_out_is_told(tmp_path):
    write(LABELLED, Export(to="faces", size=16), tmp_path / "sky")
    Image.new("RGB", (16, 16)).save(tmp_path / "sky" / "preview.png")
    with pytest.warns(UserWarning, match=re.escape("preview.png is none of the faces, and left out")):
        read_faces([tmp_path / "sky"])
    (tmp_path / "sky" / "preview.png").unlink()
    Image.new("RGB", (16, 16)).save(tmp_path / "sky" / "up.png")
    with pytest.warns(UserWarning, match="tell of several pictures that they were made as"):
        assert read_faces([tmp_path / "sky"]).settings == {}
    write(LABELLED, Export(to="strip", size=16, layout="godot"), tmp_path / "s.png")
    with pytest.warns(UserWarning, match=re.escape("says that its layout is godot, and it is read as unity")):
        assert read_faces([tmp_path / "s.png"], "unity").layout.name == "unity"


def test_a_face_with_transparency_is_told(tmp_path):
    strip = Image.new("RGBA", (48, 8), (10, 20, 30, 100))
    strip.save(tmp_path / "s.png")
    with pytest.warns(UserWarning, match="opens without its transparency"):
        read_faces([tmp_path / "s.png"])


def test_a_panorama_with_transparency_is_told(tmp_path):
    clear = attrs.evolve(LABELLED, hole=Image.new("L", LABELLED.size, 255))
    with pytest.warns(UserWarning, match=re.escape("harbour.png is transparent in places, which is left out")):
        write(clear, Export(to="view", width=8), tmp_path / "v.png")


def test_force_replaces_six_faces_and_nothing_else_in_their_folder(tmp_path):
    out = tmp_path / "sky"
    write(LABELLED, Export(to="faces", size=8), out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="it exists already"):
        write(LABELLED, Export(to="faces", size=16), out)
    write(LABELLED, Export(to="faces", size=16), out, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert {read_picture(path).image.size for path in out.glob("*.png")} == {(16, 16)}
    assert len(list(out.iterdir())) == 7
    # Another format would leave each face there twice, and nobody could tell which is meant.
    with pytest.raises(InputError, match=r"\.png is there already and would be the same face as \w+\.jpg; delete it"):
        write(LABELLED, Export(to="faces", size=16, format="jpg"), out, force=True)
    (out / "._front.png").write_bytes(b"of macOS")
    assert read_faces([out]).size == 16


def test_faces_that_cannot_be_written_leave_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(Exception, match="No space left"):
        write(LABELLED, Export(to="faces", size=8), tmp_path / "sky")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ what is refused


PART = attrs.evolve(LABELLED, area=Area(left=0, top=0, width=100, height=50))


@pytest.mark.parametrize(
    "act",
    [
        lambda tmp: write(PART, Export(to="view"), tmp / "a.png"),
        lambda tmp: PART.faces(),
        lambda tmp: PART.little_planet(),
    ],
)
def test_a_part_of_a_panorama_is_refused_in_one_sentence(act, tmp_path):
    with pytest.raises(InputError, match=r"^Only a whole panorama .*it is a part of a panorama \(.*; fill it up first"):
        act(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"layout": "roblox"}, "There is no layout 'roblox'; there are: plain, threejs, unity, unreal, godot"),
        ({"size": 0}, r"size is 0, but must be a whole number of pixels, 1 … 16384"),
        ({"size": 20_000}, r"size is 20000, but must be a whole number"),
    ],
)
def test_faces_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        LABELLED.faces(**wrong)


def test_six_faces_that_do_not_go_together_are_refused():
    faces = LABELLED.faces(8)
    four = dict(list(faces.items())[:5])
    with pytest.raises(InputError, match=r"has the six faces .*; this one lacks down; give all of them"):
        Panorama.from_faces(four)
    with pytest.raises(InputError, match="this one has top beside them"):
        Panorama.from_faces({**faces, "top": faces["up"]})
    with pytest.raises(InputError, match="The face up has 8×9 pixels, but must be square"):
        Panorama.from_faces({**faces, "up": Image.new("RGB", (8, 9))})
    with pytest.raises(InputError, match=r"The faces are of several sizes \(front 8, .* up 9, down 8\)"):
        Panorama.from_faces({**faces, "up": Image.new("RGB", (9, 9))})
    for width in (0, 7, 70_000, 12.0, True):
        with pytest.raises(InputError, match=r"width is .*, but must be an even number of pixels"):
            Panorama.from_faces(faces, width=width)
    with pytest.raises(InputError, match="A cross is 4×3 faces and a strip 6×1, but this picture has 40×32 pixels"):
        taken_apart(Image.new("RGB", (40, 32)), LAYOUTS["plain"])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Every command line below, in one process: what it said, and whether it left a file."""
    desk = tmp_path_factory.mktemp("desk")
    LABELLED.save(desk / "p.png")
    attrs.evolve(LABELLED, area=Area(left=0, top=0, width=100, height=50)).save(desk / "part.png")
    (desk / "there").mkdir()
    (desk / "there" / "mine.txt").touch()
    (desk / "there.png").write_bytes(b"mine")
    for folder, change in {
        "five": lambda faces: faces.pop("back"),
        "sizes": lambda faces: faces.update(up=Image.new("RGB", (9, 9))),
        "whole": lambda faces: None,
        "oblong": lambda faces: faces.update(up=Image.new("RGB", (8, 9))),
        "twice": lambda faces: faces.update({"my up": faces["up"]}),
    }.items():
        (desk / folder).mkdir()
        faces = LABELLED.faces(8)
        change(faces)
        for name, face in faces.items():
            face.save(desk / folder / f"{name}.png")
    (desk / "nothing").mkdir()
    Image.new("RGB", (40, 32)).save(desk / "cross.png")
    before = {path.name for path in desk.iterdir()}
    answers = dit360(*(line.split() for line, _ in REFUSED.values()), cwd=desk)
    assert {path.name for path in desk.iterdir()} == before
    assert (desk / "there.png").read_bytes() == b"mine"
    return dict(zip(REFUSED, answers, strict=True))


REFUSED = {
    "no such target": ("export p.png -o o.png --to cubes", r"--to cubes is none of: faces, cross, strip, view, little"),
    "no such layout": (
        "export p.png -o o --layout roblox",
        r"There is no --layout 'roblox'; there are: plain, threejs",
    ),
    "size 0": ("export p.png -o o --size 0", r"--size is 0, but must be a whole number of pixels, 1 … 16384"),
    "size too large": ("export p.png -o o --size 99999", r"--size is 99999, but must be a whole number"),
    "view too large": ("export p.png -o o.png --to view --width 99999", r"--width is 99999, but must be"),
    "angle that is none": ("export p.png -o o.png --to view --yaw nan", r"--yaw is nan, but must be a number"),
    "field of view of a view": ("export p.png -o o.png --to view --fov 180", r"--fov is 180, but must be above 0 and"),
    "field of view of a planet": (
        "export p.png -o o.png --to little-planet --fov 360",
        r"--fov is 360, but must be above 0 and below 360 degrees",
    ),
    "option of something else": (
        "export p.png -o o.png --to little-planet --pitch 5",
        r"--pitch says nothing of --to little-planet, which takes --fov, --yaw, --size; leave it out",
    ),
    "layout of a view": ("export p.png -o o.png --to view --layout unity", r"--layout says nothing of --to view"),
    "format that is none": ("export p.png -o o --format exe", r"--format is 'exe', but must be one of: jpg, jpeg"),
    "quality": ("export p.png -o o --quality 0", r"A quality of 0 is none"),
    "another file's name for a folder": (
        "export p.png -o o.exr",
        r"o\.exr is the name of a file; leave the suffix out\.",
    ),
    "a side that follows": ("export p.png -o o.png --to view --height 16384", r"--width would be 21845, but no side"),
    "WebP's limit of a panorama": ("import whole -o o.webp --width 20000", r"WEBP holds at most 16383 pixels a side"),
    "a file's name for a folder": ("export p.png -o o.jpg", r"Six faces are written into a folder, and o\.jpg is the "),
    "a folder that is there": ("export p.png -o there", r"Cannot write there: it exists already; choose another name"),
    "a file that is there": ("export p.png -o there.png --to cross", r"Cannot write there\.png: the file exists alr"),
    "no suffix": ("export p.png -o o --to cross", r"Cannot write o: the suffix says no known format"),
    "no file": ("export nowhere.png -o o", r"Cannot open nowhere\.png: there is no such file"),
    "a part": (
        "export part.png -o o",
        r"Only a whole panorama can be exported, but it is a part .* giving it as --photo",
    ),
    "WebP's limit": ("export p.png -o o.webp --to strip --size 4000", r"WEBP holds at most 16383 pixels a side"),
    "five faces": (
        "import five -o o.png",
        r"five has 5 of the six faces of layout plain, and back is missing; name the files as the faces are called",
    ),
    "no faces": ("import nothing -o o.png", r"nothing has no faces, and .* are missing"),
    "other sizes": ("import sizes -o o.png", r"Cannot import sizes: the faces are of several sizes \(front 8, .*up 9"),
    "not square": ("import oblong -o o.png", r"Cannot import oblong: the face up has 8×9 pixels, but must be square"),
    "a face twice": ("import twice -o o.png", r"(my up|up)\.png and (my up|up)\.png are both the face up"),
    "a cross of another shape": (
        "import cross.png -o o.png",
        r"Cannot import cross\.png: a cross is 4×3 faces and a strip 6×1, but this picture has 40×32 pixels",
    ),
    "a panorama": ("import p.png -o o.png", r"this picture has 512×256 pixels, which is neither"),
    "two files": ("import p.png cross.png -o o.png", r"A cube map is one folder, six files, .* and here are 2 files"),
    "odd width": ("import five -o o.png --width 7", r"--width is 7, but must be an even number of pixels"),
    "layout to read that is none": ("import five -o o.png --layout x", r"There is no --layout 'x'"),
    "a panorama that is there": ("import five -o there.png", r"Cannot write there\.png: the file exists already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_or_imported_is_one_sentence_and_nothing_is_written(told, name):
    answer = told[name]
    assert answer.code == 2, answer.err
    assert re.search(REFUSED[name][1], answer.err), answer.err
    assert answer.err.count("Error: ") == 1
    assert "Traceback" not in answer.err


def test_the_command_line_tells_what_it_wrote_and_read(tmp_path):
    SMOOTH.save(tmp_path / "p.png")
    lines = ["export p.png -o sky --layout threejs --format jpg", "import sky -o back.png", "inspect back.png --json",
             "export p.png -o sky --layout threejs --format jpg --force --size 16",
             "import sky -o small.png --width 64"]  # fmt: skip
    answers = dit360(*(line.split() for line in lines), cwd=tmp_path)
    assert [answer.code for answer in answers] == [0] * 5, answers
    assert "faces of p.png: 84×84 pixels each, layout threejs." in answers[0].err
    assert "Wrote back.png: 256×128 pixels." in answers[1].err
    assert "Read faces of 84×84 pixels, layout threejs, told by the files." in answers[1].err
    assert answers[2].json["settings"]["imported"]["exported"]["from"]["file"] == "p.png"
    assert answers[2].json["pose"]["heading"] == 120
    assert json.loads(answers[2].out)["verdict"].startswith("closes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Panorama.open(tmp_path / "small.png").size == (64, 32)


@pytest.mark.parametrize("name", ["fov", "yaw", "pitch", "roll"])
def test_angles_that_are_no_numbers_are_told(name):
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"{name} is (nan|inf), but must be a number of degrees"):
            Export(to="view", **{name: value})


def test_what_faces_say_of_themselves_decides_on_no_picture_far_finer_than_they_are(tmp_path):
    write(SMOOTH, Export(to="strip", size=32), tmp_path / "s.png")
    read = read_faces([tmp_path / "s.png"])
    assert read.width == SMOOTH.width
    told = {**read.exported, "from": {"width": 10**9}}
    assert attrs.evolve(read, exported=told).width is None


def test_bits_that_are_left_behind_are_told(tmp_path):
    deep = attrs.evolve(SMOOTH, floats=np.asarray(SMOOTH.image, np.float32) / 255 * 0.999)
    deep.save(tmp_path / "deep.png", bits=16)
    (said,) = dit360(["export", "deep.png", "--to", "view", "-o", "v.png"], cwd=tmp_path)
    assert said.code == 0
    assert "deep.png has more than 8 bits a channel, and what is exported has 8" in said.err


def test_what_is_too_large_to_be_opened_again_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT360_MAX_PIXELS", str(6 * 16 * 16 - 1))
    with pytest.warns(UserWarning, match="dit360 itself opens so many only with DIT360_MAX_PIXELS=1536"):
        write(LABELLED, Export(to="strip", size=16), tmp_path / "s.png")
    monkeypatch.setenv("DIT360_MAX_PIXELS", str(6 * 16 * 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(LABELLED, Export(to="strip", size=16), tmp_path / "t.png")


def test_a_viewer_holds_the_file_as_it_is(tmp_path):
    SMOOTH.save(tmp_path / "s.png")
    (said,) = dit360(["view", "s.png", "-o", "s.html"], cwd=tmp_path)
    assert said.code == 0
    assert base64.b64encode((tmp_path / "s.png").read_bytes()).decode() in (tmp_path / "s.html").read_text()


def test_a_page_tells_nothing_that_a_camera_wrote(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    SMOOTH.image.save(tmp_path / "e.jpg", exif=exif)
    SMOOTH.image.save(tmp_path / "x.jpg", xmp=b"<x:xmpmeta>exif:GPSLatitude</x:xmpmeta>")
    told = dit360(["view", "e.jpg", "-o", "e.html"], ["view", "x.jpg", "-o", "x.html"], cwd=tmp_path)
    assert [one.code for one in told] == [0, 0]
    for name in ("e", "x"):
        data = base64.b64encode((tmp_path / f"{name}.jpg").read_bytes()).decode()
        assert data[:200] not in (tmp_path / f"{name}.html").read_text()


def test_a_viewer_replaces_no_picture(tmp_path):
    SMOOTH.save(tmp_path / "s.png")
    before = (tmp_path / "s.png").read_bytes()
    (said,) = dit360(["view", "s.png", "-o", "s.png", "--force"], cwd=tmp_path)
    assert said.code == 2
    assert "end its name in .html" in said.err
    assert (tmp_path / "s.png").read_bytes() == before


def test_what_is_no_face_says_nothing_of_the_faces(tmp_path):
    """A cross in their folder, which sorts before them."""
    write(LABELLED, Export(to="faces", size=16, layout="threejs"), tmp_path / "sky")
    write(SMOOTH, Export(to="cross", size=16), tmp_path / "sky" / "cross.png")
    with pytest.warns(UserWarning, match=re.escape("cross.png is none of the faces, and left out")):
        read = read_faces([tmp_path / "sky"])
    assert (read.layout.name, read.why, read.pose) == ("threejs", "told by the files", POSE)
    assert read.exported["from"]["file"] == "harbour.png"


def test_faces_that_tell_of_several_exports_tell_of_none(tmp_path):
    write(LABELLED, Export(to="faces", size=16), tmp_path / "sky")
    write(attrs.evolve(SMOOTH, pose=Pose()), Export(to="faces", size=16), tmp_path / "other")
    (tmp_path / "other" / "back.png").replace(tmp_path / "sky" / "back.png")
    with pytest.warns(UserWarning, match="tell of several pictures that they were made as, and none of it is kept"):
        read = read_faces([tmp_path / "sky"])
    assert (read.layout.name, read.exported, read.settings) == ("plain", {}, {})
    write(LABELLED, Export(to="faces", size=16, layout="unity"), tmp_path / "two")
    for path in (tmp_path / "sky").iterdir():
        path.replace(tmp_path / "two" / path.name)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert read_faces([tmp_path / "two"]).why == "by their names"
    assert "tell of several layouts (plain, unity), and are read by their names" in str(heard[0].message)


def test_faces_of_16_bits_are_rounded_and_those_that_are_none_refused():
    grey = {name: face.convert("L") for name, face in LABELLED.faces(8).items()}
    deep = {name: Image.fromarray(np.asarray(face).astype(np.uint16) * 257) for name, face in grey.items()}
    assert _alike(Panorama.from_faces(deep).image, Panorama.from_faces(grey).image)
    with pytest.raises(InputError, match="The face up has 8 or 16 bits a channel, but this one is of mode F"):
        Panorama.from_faces({**grey, "up": grey["up"].convert("F")})
    with pytest.raises(InputError, match="The face front is a ndarray, but must be a picture of Pillow"):
        Panorama.from_faces({name: np.asarray(face) for name, face in grey.items()})
    clear = Image.new("RGBA", (8, 8), (1, 2, 3, 100))
    with pytest.warns(UserWarning, match="The transparency of up is left out"):
        Panorama.from_faces({**grey, "up": clear})


def test_faces_are_made_one_by_one(monkeypatch):
    """Six at once take gigabytes before they are rounded."""
    made = []
    drawn = cube.drawn
    monkeypatch.setattr(cube, "drawn", lambda *given: made.append(drawn(*given)) or made[-1])
    rounded = projecting._image
    monkeypatch.setattr(projecting, "_image", lambda planes: made.append("rounded") or rounded(planes))
    SMOOTH.faces(8)
    assert [one if isinstance(one, str) else "drawn" for one in made] == ["drawn", "rounded"] * 6


def test_too_little_memory_is_one_sentence(tmp_path, monkeypatch):
    def full(*given):
        raise MemoryError

    monkeypatch.setattr(cube, "face_of", full)
    monkeypatch.setattr(cube, "from_faces", full)
    with pytest.raises(OutOfMemory, match=r"There is too little memory on the cpu for writing .*sky; .* smaller size"):
        write(LABELLED, Export(to="faces", size=16), tmp_path / "sky")
    assert not (tmp_path / "sky").exists()
    for name, face in zip(LAYOUTS["plain"].row, [Image.new("RGB", (8, 8))] * 6, strict=True):
        face.save(tmp_path / f"{name}.png")
    with pytest.raises(OutOfMemory, match="There is too little memory on the cpu for a panorama of six faces"):
        panorama_of(read_faces([tmp_path]))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"to": "view", "width": 20, "height": 10}, "it is a view of a panorama, and no panorama; give that"),
        ({"to": "little-planet", "size": 10}, "it is a little planet of a panorama, and no panorama; give that"),
        ({"to": "cross", "size": 4}, "it is a cube map, and no panorama; import it first"),
    ],
)
def test_what_was_exported_is_taken_for_no_panorama(asked, said, tmp_path):
    write(SMOOTH, Export(**asked), tmp_path / "flat.png")
    for answer in dit360(
        ["inspect", "flat.png"], ["view", "flat.png", "-o", "flat.html"], cwd=tmp_path, without=("torch",)
    ):
        assert (answer.code, answer.err) == (2, f"Error: Cannot open flat.png: {said}.\n")


def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path):
    (said,) = dit360(["import", "a" * 300, "-o", "b.png"], cwd=tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert "Cannot open" in said.err


def test_bits_of_thousands_of_digits_are_refused_in_words():
    with pytest.raises(InputError, match="is written with 8 or 16 bits a channel, not with bits=so many"):
        check_format("PNG", bits=10**5000)
