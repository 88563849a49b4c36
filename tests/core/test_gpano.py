"""Where a picture lies on the sphere and which way it looks, as GPano says it: read, kept, written, or told."""

import json
import math

import attrs
import numpy as np
import pytest
from command_line import dit360
from dit360_core.errors import InputError
from dit360_core.panorama.gpano import MADE, Area, Pose, place, properties_of, read_pose
from dit360_core.panorama.metadata import GPANO, build_xmp, parse_xmp
from dit360_core.panorama.picture import Panorama
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin


def cropped(width, height, left, top, full=(8000, 4000), **others):
    """The GPano properties of a part of a panorama."""
    names = ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels", "CroppedAreaLeftPixels",
             "CroppedAreaTopPixels", "FullPanoWidthPixels", "FullPanoHeightPixels")  # fmt: skip
    values = dict(zip(names, map(str, (width, height, left, top, *full)), strict=True))
    return {"ProjectionType": "equirectangular", **values, **others}


def without(properties, *names):
    return {name: value for name, value in properties.items() if not name.startswith(names)}


def packet(properties):
    """Other programs write attributes as often as elements, and any prefix."""
    told = " ".join(f'p:{name}="{value}"' for name, value in properties.items())
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return f'<r xmlns:q="{rdf}"><q:RDF><q:Description xmlns:p="{GPANO}" {told}/></q:RDF></r>'.encode()


def written(path, image, properties):
    """A picture file of another program with these GPano properties."""
    if path.suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet(properties).decode())
        image.save(path, pnginfo=chunks)
    else:
        image.save(path, xmp=packet(properties))
    return path


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(40, 255, (height, width, 3), dtype=np.uint8))


# -------------------------------------------------------------------------------------------------------- placing


@pytest.mark.parametrize(
    ("properties", "size", "whole", "area"),
    [
        (cropped(4000, 1000, 2000, 1500), (4000, 1000), (8000, 4000), (2000, 1500, 4000, 1000)),
        # 2:1, and yet no sphere.
        (cropped(4000, 2000, 2000, 1000), (4000, 2000), (8000, 4000), (2000, 1000, 4000, 2000)),
        # Resized afterwards, as sites do: the metadata still speak of the first size.
        (cropped(4000, 1000, 2000, 1500), (1000, 250), (2000, 1000), (500, 375, 1000, 250)),
        (cropped(5999, 1501, 101, 1203), (1200, 300), (1600, 800), (20, 240, 1200, 300)),
        # Over the meridian, and given from there.
        (cropped(4000, 1000, 6000, 0), (4000, 1000), (8000, 4000), (6000, 0, 4000, 1000)),
        (cropped(4000, 1000, -2000, 0), (4000, 1000), (8000, 4000), (6000, 0, 4000, 1000)),
        # All around, and a strip.
        (cropped(8000, 1000, 0, 1500), (8000, 1000), (8000, 4000), (0, 1500, 8000, 1000)),
        (without(cropped(8000, 1000, 0, 1500), "CroppedAreaLeft"), (8000, 1000), (8000, 4000), (0, 1500, 8000, 1000)),
        # Real programs write broken numbers.
        (cropped("4000.0", "1000.0", "2000.0", "1500.0"), (4000, 1000), (8000, 4000), (2000, 1500, 4000, 1000)),
        # The part's size left out: that of the picture.
        (without(cropped(1, 1, 2000, 1500), "CroppedAreaImage"), (4000, 1000), (8000, 4000), (2000, 1500, 4000, 1000)),
        # Full sizes that are odd.
        (cropped(3001, 800, 7, 9, full=(6001, 3001)), (3001, 800), (6000, 3000), (7, 9, 3001, 800)),
    ],
)
def test_a_part_is_placed_where_it_lies(properties, size, whole, area):
    placed = place(properties, size)
    assert placed.told == ()
    assert placed.size == whole
    assert (placed.area.left, placed.area.top, placed.area.width, placed.area.height) == area


@pytest.mark.parametrize(
    ("properties", "size", "told"),
    [
        ({}, (800, 400), ""),
        (cropped(8000, 4000, 0, 0), (8000, 4000), ""),
        (cropped(8000, 4000, 0, 0), (2048, 1024), ""),
        ({"ProjectionType": "Equirectangular"}, (800, 400), ""),
        # Filled up in an editor that kept the metadata.
        (cropped(4000, 1000, 2000, 1500), (8000, 4000), "4000×1000 pixels of a sphere of 8000×4000, and it has"),
        (cropped(3, 3, 0, 0), (800, 400), "3×3 pixels of a sphere of 8000×4000, and it has 800×400"),
        (cropped("x", 1000, 0, 0), (800, 400), "CroppedAreaImageWidthPixels is 'x', which is no number of pixels"),
        (cropped("nan", 1000, 0, 0), (800, 400), "'nan'"),
        (cropped(-4, 1000, 0, 0), (800, 400), "'-4'"),
        (cropped(400, 200, 0, 0, full=(800, 800)), (400, 200), "of a sphere of 800×800"),
    ],
)
def test_what_is_whole_is_whole_and_what_is_not_believed_is_told(properties, size, told):
    placed = place(properties, size)
    assert placed.area is None
    assert placed.size == size
    if told:
        assert told in placed.told[0]
    else:
        assert placed.told == ()


@pytest.mark.parametrize(
    ("properties", "size", "why"),
    [
        ({}, (800, 300), "twice as wide as high, but this picture is 800×300"),
        ({"ProjectionType": "cylindrical"}, (800, 400), "its projection is 'cylindrical'"),
        ({"ProjectionType": "fisheye"}, (800, 800), "its projection is 'fisheye'"),
        (cropped(4000, 1000, 0, 0), (800, 300), "4000×1000 pixels of a sphere of 8000×4000, and it has 800×300; crop"),
        (cropped(9000, 1000, 0, 0), (9000, 1000), "9000×1000 pixels of a sphere of 8000×4000"),
        (cropped(4000, 1000, 0, 3500), (4000, 1000), "4000×1000 pixels of a sphere of 8000×4000"),
        (without(cropped(4000, 2000, 2000, 1000), "Full"), (4000, 2000), "not of which size the whole is"),
        (
            without(cropped(4000, 2000, 2000, 1000), "CroppedAreaTop"),
            (4000, 2000),
            "not of where .CroppedAreaTopPixels",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_by_what_it_is(properties, size, why):
    with pytest.raises(InputError, match=why):
        place(properties, size)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_part_lies_on_a_black_sphere_and_is_saved_as_the_part_that_it_was(tmp_path, suffix):
    image = noise(64, 16)
    path = written(tmp_path / f"a{suffix}", image, cropped(64, 16, 96, 24, full=(128, 64)))
    panorama = Panorama.open(path)
    assert panorama.size == (128, 64)
    assert panorama.area == Area(left=96, top=24, width=64, height=16)
    assert not panorama.closes
    pixels = np.asarray(panorama.image)
    with Image.open(path) as file:
        part = np.asarray(file.convert("RGB"))
    assert np.array_equal(np.concatenate((pixels[24:40, 96:], pixels[24:40, :32]), axis=1), part)
    assert pixels[24:40, 32:96].max() == pixels[:24].max() == pixels[40:].max() == 0
    for each in (panorama, panorama.roll(100).roll(-100)):
        again = Panorama.open(each.save(tmp_path / "again.png", force=True))
        with Image.open(tmp_path / "again.png") as file:
            assert file.size == (64, 16)
        assert (again.area, again.size) == (panorama.area, panorama.size)
        assert np.array_equal(np.asarray(again.image), pixels)
    assert panorama.roll(90).area == Area(left=64, top=24, width=64, height=16)
    with pytest.raises(InputError, match="has no seam"):
        _ = panorama.seam


def test_a_strip_all_around_is_judged_by_its_own_rows(tmp_path):
    path = written(tmp_path / "a.png", noise(128, 16), cropped(128, 16, 0, 24, full=(128, 64)))
    assert 0.8 < Panorama.open(path).seam.ratio < 1.25


def test_a_part_is_nothing_to_begin_with(tmp_path):
    path = written(tmp_path / "a.png", noise(64, 32), cropped(64, 32, 32, 16, full=(128, 64)))
    with pytest.raises(InputError, match=r"a\.png: it is a part of a panorama \(180°×90°, 64×32 pixels at 32, 16"):
        Panorama.open_whole(path)


def test_a_part_of_a_sphere_that_is_too_large_is_told_before_it_is_made(tmp_path):
    path = written(tmp_path / "a.png", noise(64, 32), cropped(64, 32, 0, 0, full=(100_000, 50_000)))
    with pytest.raises(InputError, match=r"a part of a panorama that has 100000×50000 .* DIT360_MAX_PIXELS=5000000000"):
        Panorama.open(path)


# ----------------------------------------------------------------------------------------------------------- poses

ANGLES = {"PoseHeadingDegrees": "123.5", "PosePitchDegrees": "-4.25", "PoseRollDegrees": "2.0",
          "InitialViewHeadingDegrees": "200", "InitialViewPitchDegrees": "-10", "InitialViewRollDegrees": "1",
          "InitialHorizontalFOVDegrees": "75.0"}  # fmt: skip


def rotation(pose):
    """(3, 3): directions of the picture (right, ahead, up) → of the world (east, north, up), as Google defines it."""
    h, p, r = (math.radians(angle or 0) for angle in (-(pose.heading or 0), pose.pitch, pose.roll))
    about_up = [[math.cos(h), -math.sin(h), 0], [math.sin(h), math.cos(h), 0], [0, 0, 1]]
    about_right = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    about_ahead = [[math.cos(r), 0, math.sin(r)], [0, 1, 0], [-math.sin(r), 0, math.cos(r)]]
    return np.array(about_up) @ about_right @ about_ahead


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_what_was_told_of_the_pose_is_kept(tmp_path, suffix):
    others = {"CaptureSoftware": "Hugin", "FirstPhotoDate": "2024-05-01T12:00:00Z", "SourcePhotosCount": "36"}
    path = written(tmp_path / f"a{suffix}", noise(64, 32), {"ProjectionType": "equirectangular", **ANGLES, **others})
    panorama = Panorama.open(path)
    pose = panorama.pose
    assert (pose.heading, pose.pitch, pose.roll) == (123.5, -4.25, 2)
    assert (pose.view_heading, pose.view_pitch, pose.view_roll, pose.view_fov) == (200, -10, 1, 75)
    assert pose.others == others
    assert pose.start == (76.5, -10, 75)
    saved = panorama.save(tmp_path / "b.png")
    assert Panorama.open(saved).pose == pose
    with Image.open(saved) as file:
        told = parse_xmp(file.text["XML:com.adobe.xmp"].encode()).gpano
    assert ANGLES.items() <= told.items()
    assert others.items() <= told.items()


def test_a_picture_that_is_made_calls_its_middle_north_and_one_of_others_says_nothing(tmp_path):
    assert parse_xmp(build_xmp(64, 32, {})).gpano["PoseHeadingDegrees"] == "0.0"
    noise(64, 32).save(tmp_path / "a.png")
    panorama = Panorama.open(tmp_path / "a.png")
    assert panorama.pose == Pose()
    assert "PoseHeadingDegrees" not in properties_of(panorama.size, None, panorama.pose)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("PosePitchDegrees", "91", "its PosePitchDegrees is '91', which is no such angle, and is left out"),
        ("PoseHeadingDegrees", "north", "'north'"),
        ("PoseRollDegrees", "inf", "'inf'"),
        ("InitialHorizontalFOVDegrees", "0", "'0'"),
    ],
)
def test_an_angle_that_is_none_is_told(name, text, told):
    pose, unused = read_pose({name: text})
    assert pose == Pose()
    assert told in unused[0]


@pytest.mark.parametrize(("text", "heading", "roll"), [("-90", 270, -90), ("450", 90, None), ("360", 0, 0)])
def test_angles_go_round_the_circle(text, heading, roll):
    assert read_pose({"PoseHeadingDegrees": text})[0].heading == heading
    if roll is not None:
        assert read_pose({"PoseRollDegrees": text})[0].roll == roll


angles = st.floats(-89, 89)


@given(st.floats(0, 359), angles, angles, st.floats(-720, 720))
@example(0, 0, 0, 90)
@example(10, 30, -20, 180)
def test_the_world_stays_where_it_is_when_the_picture_is_turned(heading, pitch, roll, degrees):
    pose = Pose(heading=heading, pitch=pitch, roll=roll)
    turned = pose.turned(degrees)
    assert 0 <= turned.heading < 360
    d = math.radians(degrees)
    # What the turned picture has ahead is what the other has at the yaw of ``degrees``.
    turn = np.array([[math.cos(d), math.sin(d), 0], [-math.sin(d), math.cos(d), 0], [0, 0, 1]])
    assert np.allclose(rotation(turned), rotation(pose) @ turn, atol=1e-6)


def test_a_turn_keeps_a_level_horizon_level_and_the_first_view():
    turned = attrs.evolve(MADE, view_heading=30.0).turned(90)
    assert (turned.heading, turned.pitch, turned.roll, turned.start[0]) == (90, None, None, -60)
    assert Pose(view_heading=30.0).turned(90).start[0] == -60
    assert Pose().turned(90) == Pose()
    assert Panorama(image=noise(64, 32)).roll(-90).pose.heading == 270


def test_what_others_say_never_spoils_the_packet():
    others = {"A b": "1", "Good": "</x>&", "x" * 10: "y" * 70_000}
    read = parse_xmp(build_xmp(64, 32, {"prompt": "a harbour"}, pose=Pose(others=others)))
    assert read.settings == {"prompt": "a harbour"}
    assert parse_xmp(build_xmp(64, 32, {}, pose=Pose(others={"Good": "</x>&", "A b": "1"}))).gpano["Good"] == "</x>&"


# ---------------------------------------------------------------------------------------------------- the commands


def test_the_commands_tell_where_a_picture_lies_and_which_way_it_looks(tmp_path):
    written(tmp_path / "part.jpg", noise(64, 32), cropped(64, 32, 32, 16, full=(128, 64), **ANGLES))
    written(tmp_path / "tube.jpg", noise(64, 32), {"ProjectionType": "cylindrical"})
    written(tmp_path / "odd.png", noise(64, 32), {"PosePitchDegrees": "up"})
    told, as_json, seen, tube, begun, odd = dit360(
        ["inspect", "part.jpg"], ["inspect", "part.jpg", "--json"], ["view", "part.jpg", "-o", "a.html"],
        ["inspect", "tube.jpg"], ["generate", "a castle", "--image", "part.jpg", "--denoise", "0.5", "-o", "a.png"],
        ["inspect", "odd.png"], cwd=tmp_path, without=("torch", "diffusers", "transformers"),
    )  # fmt: skip
    assert told.code == 0, told
    assert told.out.index("meridian") < told.out.index("size") < told.out.index("part")
    said = " ".join(told.out.split())
    assert "it does not go all around" in said
    assert "180°×90°: 64×32 pixels at 32, 16; the rest is black" in said
    assert "heading 123.5°, pitch -4.25°, roll 2°" in said
    assert "poles not shown" in said
    report = json.loads(as_json.out)
    assert report["area"] == {"left": 32, "top": 16, "width": 64, "height": 32}
    assert report["pose"] == {"heading": 123.5, "pitch": -4.25, "roll": 2.0}
    assert report["first_view"] == {"heading": 200.0, "pitch": -10.0, "roll": 1.0, "fov": 75.0}
    assert report["seam_ratio"] is None
    assert "pose: heading 123.5°" in seen.err
    assert "{&quot;heading&quot;: 123.5" in (tmp_path / "a.html").read_text()
    assert (tube.code, tube.err) == (
        2, "Error: Cannot open tube.jpg: its projection is 'cylindrical', and dit360 reads equirectangular panoramas; "
        "convert it.\n",
    )  # fmt: skip
    assert begun.code == 2
    assert begun.err.startswith("Error: Cannot begin with part.jpg: it is a part of a panorama")
    assert odd.code == 0
    assert odd.err == (
        "Warning: odd.png opens, but its PosePitchDegrees is 'up', which is no such angle, and is left out.\n"
    )
