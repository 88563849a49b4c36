"""Several pictures of one command, a picture like another, a user's own defaults, parts of a list."""

import io
import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import dit360_core
import pytest
import typer
from command_line import dit360, python
from dit360_core.batching import Batch
from dit360_core.batching import folder as folders
from dit360_core.batching.folder import Folder
from dit360_core.batching.running import shard_of
from dit360_core.cli import app, likeness, profile, terminal
from dit360_core.cli.likeness import Beside, options_like
from dit360_core.cli.precedence import Taken
from dit360_core.cli.several import counted, names_of
from dit360_core.cli.wording import begin, current, take
from dit360_core.cli.work.remote import _wanted
from dit360_core.cli.work.saving import usable
from dit360_core.errors import InputError, plain
from dit360_core.options import LoadOptions, SampleOptions, options_of
from dit360_core.panorama.metadata import SHORTENED
from dit360_core.panorama.photos import Photo
from dit360_core.panorama.picture import Panorama
from PIL import Image
from rich.console import Console

SMALL = ["--width", "128", "--steps", "2"]
COMMANDS = typer.main.get_command(app).commands


# ---------------------------------------------------------------------------------------------------------- several


def test_names_and_seeds_count_up():
    assert names_of(Path("a/sea.v1.jpg"), 1) == [Path("a/sea.v1.jpg")]
    assert names_of(Path("sea.jpg"), 2) == [Path("sea-1.jpg"), Path("sea-2.jpg")]
    assert names_of(Path("sea.jpg"), 12)[0] == Path("sea-01.jpg")
    asked = SampleOptions(prompt="x", seed=2**64 - 1)
    assert [counted(asked, number).seed for number in range(3)] == [2**64 - 1, 0, 1]
    assert counted(SampleOptions(prompt="x"), 1).seed is None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    told = dit360(
        ["generate", "a calm sea", "-n", "2", "--seed", "5", "-o", "sea.png", *SMALL, "--guidance", "2"],
        ["generate", "--like", "sea-2.png", "-o", "again.png"],
        ["generate", "--like", "sea-2.png", "-o", "steps=9.png", "--steps", "3"],
        ["generate", "a castle", "--like", "sea-2.png", "-o", "castle.png"],
        ["generate", "a sea", "-n", "2", "-o", "sea.png", *SMALL],
        [
            "generate",
            "a tree",
            "--image",
            "sea-1.png",
            "--region",
            "0,0,60",
            "--mask-grow",
            "3",
            "--steps",
            "2",
            "-o",
            "edit.png",
        ],
        ["generate", "--like", "edit.png", "-o", "like-edit.png"],
        ["generate", "-o", "x.png"],
        ["generate", "--like", "edit.png", "--image", "sea-1.png", "-o", "edit-again.png"],
        ["generate", "--like", "edit.png", "--image", "sea-1.png", "--width", "64", "-o", "small.png"],
        cwd=folder,
    )
    return folder, told


def test_several_pictures_are_made_with_seeds_that_count_up(made):
    folder, told = made
    assert told[0].code == 0
    seeds = [Panorama.open(folder / f"sea-{number}.png").settings["used"]["seed"] for number in (1, 2)]
    assert seeds == [5, 6]


def test_none_is_made_if_one_of_their_names_is_taken(made):
    _, told = made
    assert told[4].code == 2
    assert "sea-1.png" in told[4].err


def test_a_picture_like_another_is_the_same_but_for_what_is_given(made):
    folder, _ = made
    assert (folder / "again.png").read_bytes() == (folder / "sea-2.png").read_bytes()
    other, castle = (Panorama.open(folder / name).settings for name in ("steps=9.png", "castle.png"))
    assert (other["used"]["steps"], other["used"]["seed"], other["used"]["guidance"]) == (3, 6, 2.0)
    assert castle["prompt"] == "a castle"
    assert castle["used"]["steps"] == 2


def test_what_a_picture_does_not_hold_is_told(made):
    folder, told = made
    assert told[6].code == 0
    assert "was made of another picture" in told[6].err
    assert "--image" in told[6].err
    assert "--region 0,0,60, --mask-grow 3.0 are left out" in told[6].err
    assert Panorama.open(folder / "like-edit.png").settings["prompt"] == "a tree"


def test_with_the_other_picture_given_its_options_are_kept_and_nothing_is_missed(made):
    folder, told = made
    assert told[8].code == 0
    assert "made of another" not in told[8].err
    again, first = (Panorama.open(folder / name) for name in ("edit-again.png", "edit.png"))
    assert again.image.tobytes() == first.image.tobytes()
    assert again.settings["used"]["hold"] == first.settings["used"]["hold"]


def test_a_width_that_is_typed_decides_the_height(made):
    folder, told = made
    assert told[9].code == 0, told[9].err
    assert Panorama.open(folder / "small.png").size == (64, 32)


def test_without_a_prompt_and_a_likeness_it_says_what_to_do(made):
    assert made[1][7].code == 2
    assert "There is no prompt" in made[1][7].err


def test_a_picture_of_somebody_elses_is_like_nothing(tmp_path, tiny):
    picture = tiny.generate("a sea", width=128, steps=1)
    picture.image.save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="does not say what it was made with"):
        options_like(tmp_path / "plain.png")


# ---------------------------------------------------------------------------------------------------------- preview


@pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated:DeprecationWarning")  # the library's own
def test_a_picture_is_shown_in_the_terminal(tiny):
    pytest.importorskip("textual_image")
    panorama = tiny.generate("a sea", width=128, steps=1)
    written = io.StringIO()
    terminal.show(Console(file=written, force_terminal=True, width=40, color_system="truecolor"), panorama.image)
    lines = [line for line in written.getvalue().splitlines() if line.strip()]
    assert len(lines) >= 2
    assert all(len(line) >= 40 for line in lines)


def test_a_preview_that_cannot_be_shown_is_told_once_and_harms_no_picture(monkeypatch):
    image = Image.new("RGB", (64, 32))
    asked = []

    def odd(name):
        asked.append(name)
        raise ValueError("invalid literal for int() with base 10: '\x1b[a'")

    monkeypatch.setitem(sys.modules, "textual_image", ModuleType("textual_image"))
    renderable = ModuleType("textual_image.renderable")
    renderable.__getattr__ = odd
    monkeypatch.setitem(sys.modules, "textual_image.renderable", renderable)
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=400, color_system=None)
    terminal.show(console, image)
    before = len(asked)
    terminal.show(console, image)
    assert len(asked) == before
    (line,) = written.getvalue().splitlines()
    assert line.startswith("No preview is shown, because this terminal did not answer as expected (ValueError")
    assert "\x1b" not in line
    other = Console(file=io.StringIO(), force_terminal=True)
    terminal.show(other, image)  # which is another run
    assert len(asked) > before
    assert not logging.getLogger("textual_image._terminal").isEnabledFor(logging.ERROR)


def test_a_preview_where_nobody_looks_on_is_told_and_one_without_its_library_too(tmp_path):
    pytest.importorskip("textual_image")
    (told,) = dit360(["generate", "a sea", "--preview", "-o", "a.jpg", *SMALL], cwd=tmp_path)
    (missing,) = dit360(
        ["generate", "a sea", "--preview", "-o", "b.jpg", *SMALL], cwd=tmp_path,
        before="import dit360_core.cli.terminal as t; t.installed_version = lambda name: None\n",
    )  # fmt: skip
    assert told.code == 0
    assert "No preview is shown" in told.err
    assert missing.code == 2
    assert "pip install 'dit360-core[preview]'" in missing.err
    assert not (tmp_path / "b.jpg").exists()


# --------------------------------------------------------------------------------------------------------- defaults


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_reach_the_commands_that_have_them(tmp_path):
    file = written(
        tmp_path / "c.toml", 'model = "dit360"\nvram = "12"\n[generate]\nscheduler-type = "unipc"\nsteps = 40\n'
    )
    found = profile.defaults(*profile.read(file), COMMANDS)
    assert found["generate"] == {"model": "dit360", "vram": "12", "scheduler_type": "unipc", "steps": 40}
    assert found["batch"] == {"model": "dit360", "vram": "12"}
    assert found["doctor"] == {}
    file = written(tmp_path / "l.toml", 'lora = "style.safetensors"\n')
    assert profile.defaults(*profile.read(file), COMMANDS)["generate"] == {"lora": ["style.safetensors"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz = 3", "no option 'stepz'; did you mean steps"),
        ("[paint]\nsteps = 3", "no command 'paint'"),
        ("[doctor]\nsteps = 3", "dit360 doctor has no option 'steps'"),
        ("steps = 2026-01-01", "steps is"),
        ("steps = [1, 2]", "steps is a list, and takes one value"),
        ("steps = ", "Cannot read the defaults"),
        ('steps = "abc"', "c.toml: steps "),
        ("[generate]\nguidance = 1000000", "c.toml: guidance is 1000000"),
        ('[upscale]\nfaithful = "maybe"', "c.toml: faithful is 'maybe'"),
        ("a = " + "[" * 3000, "it is nested too deeply"),
        ("bits = 0x" + "f" * 6000, "bits is a number of too many digits"),
        ("[generate]\ncount = 0x" + "f" * 6000, "count is a number of too many digits"),
        ("bits = " + "9" * 6000, "a number in it is too long"),
        ('scheduler-type = "unipc"\nscheduler_type = "dpmpp_2m"', "c.toml: scheduler-type and scheduler_type are one"),
        ('[plan]\nsteps = 1\n"--steps" = 2', "c.toml: steps and --steps are one option; leave one out."),
        ("width = 512\nheight = 128", "c.toml: The size 512×128 cannot be made"),
        ('[plan]\nsize = "256x128"\nwidth = 512', "c.toml: size and width say the same"),
    ],
)
def test_defaults_that_are_none_are_told(tmp_path, text, said):
    file = written(tmp_path / "c.toml", text)
    with pytest.raises(InputError, match=said):
        profile.defaults(*profile.read(file), COMMANDS)


def test_defaults_are_called_as_on_the_command_line(tmp_path):
    text = (
        "width = 128\nsteps = 40\nyaw = 30\nfov = 80\n[generate]\nopen = true\n[view]\nopen = true\n"
        "[inspect]\njson = true\n"
        '[quantize]\nmode = "int8"\nparts = "both"\n[serve]\nopen = true\n'
    )
    found = profile.defaults(*profile.read(written(tmp_path / "c.toml", text)), COMMANDS)
    assert found["generate"] == {"width": 128, "steps": 40, "fov": 80, "yaw": 30, "open_viewer": True}
    assert found["view"] == {"open_viewer": True}
    assert found["inspect"] == {"as_json": True}
    assert found["quantize"] == {"quantization_mode": "int8", "quantization_parts": "both"}
    assert found["serve"]["open_page"] is True
    # Where they mean something else, defaults of all commands say nothing.
    assert found["export"] == {}
    assert not {"steps", "width"} & found["upscale"].keys()


@pytest.mark.parametrize(
    "table", ["[export]\nwidth = 1000\nheight = 700", "[import]\nwidth = 1000", "[view]\nyaw = -300"]
)
def test_a_commands_own_options_are_its_own(tmp_path, table):
    found = profile.defaults(*profile.read(written(tmp_path / "c.toml", table)), COMMANDS)
    assert sum(map(len, found.values())) in (1, 2)


def test_with_defaults_that_are_broken_help_and_doctor_still_help(tmp_path):
    file = written(tmp_path / "c.toml", "steps = ")
    told = dit360(
        ["generate", "--help"], ["doctor", "--json"], ["view", "x.png"], cwd=tmp_path, DIT360_CONFIG=str(file)
    )
    assert [one.code for one in told] == [0, 1, 2]
    assert all("Cannot read the defaults" in one.err for one in told)
    assert "--output" in told[0].out
    assert "Cannot read the defaults" in json.loads(told[1].out)["defaults"]
    assert any("Cannot read the defaults" in advice for advice in json.loads(told[1].out)["advice"])


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that nobody looks into is made by a link there")
def test_defaults_that_nobody_asked_for_and_that_cannot_be_read_are_a_warning(tmp_path):
    circle = tmp_path / "dit360"
    circle.symlink_to(circle)  # which root may not look into either
    helped, viewed, doctor, asked = dit360(
        ["--help"], ["view", "none.png"], ["doctor", "--json"], ["--config", circle / "c.toml", "view", "none.png"],
        cwd=tmp_path, XDG_CONFIG_HOME=tmp_path,
    )  # fmt: skip
    assert (helped.code, viewed.code, doctor.code, asked.code) == (0, 2, 1, 2)
    assert viewed.err.count("Warning: The defaults in") == 1
    assert "Cannot open none.png" in viewed.err
    assert any("and none are used" in advice for advice in doctor.json["advice"])
    assert "Error: Cannot read the defaults" in asked.err
    assert "none.png" not in asked.err


def test_a_file_of_defaults_that_no_system_could_have_is_told(tmp_path):
    (home,) = dit360(["view", "x.png"], cwd=tmp_path, DIT360_CONFIG="~nobodyxyz/foo.toml")
    (long,) = dit360(["--config", "a" * 300, "view", "x.png"], cwd=tmp_path)
    assert (home.code, long.code) == (2, 2)
    assert home.err == (
        "Error: Cannot read the defaults in ~nobodyxyz/foo.toml, which DIT360_CONFIG names: there is no such home; "
        "name another.\n"
    )
    assert long.err.startswith("Error: Cannot read the defaults in aaa")
    assert "mend the file, or name another" in long.err


def test_the_doctor_tells_of_defaults_that_are_none(tmp_path):
    file = written(tmp_path / "p1.toml", "stepz = 3\n")
    (told,) = dit360(["--config", file, "doctor", "--json"], cwd=tmp_path)
    assert told.code == 1
    assert any(f"{file}: there is no option 'stepz'; did you mean steps" in advice for advice in told.json["advice"])


def test_a_commands_own_size_counts_before_that_of_all(tmp_path):
    text = 'width = 512\n[generate]\nheight = 128\n[plan]\nsize = "256x128"\n'
    found = profile.defaults(*profile.read(written(tmp_path / "c.toml", text)), COMMANDS)
    assert found["generate"] == {"height": 128}
    assert found["plan"] == {"size": "256x128"}
    assert found["bench"]["width"] == 512


@pytest.mark.parametrize(
    ("text", "line", "taken", "passed_over"),
    [
        ("width = 512", ["plan", "--size", "256x128"], {"size": "256x128"}, {"width"}),
        ("width = 512", ["generate", "x", "--height", "128"], {"height": 128}, {"width"}),
        ('[plan]\nsize = "512x256"', ["plan", "--width", "256"], {"width": 256}, {"size"}),
        ("width = 512", ["export", "p.png", "-o", "x", "--height", "99"], {"height": 99}, set()),
        ("[export]\nwidth = 500", ["export", "p.png", "-o", "x", "--height", "99"], {"width": 500}, set()),
        ("fov = 70\nyaw = 3", ["generate", "x"], {}, {"fov", "yaw"}),
        ("fov = 70\nyaw = 3", ["generate", "x", "--photo", "p.jpg"], {"fov": 70, "yaw": 3}, set()),
        ("fov = 70", ["generate", "x", "--fov", "60"], {"fov": 60}, set()),
        ("denoise = 0.5\nmask-grow = 3", ["generate", "x"], {}, {"denoise", "mask_grow"}),
        ("denoise = 0.5\nregion = '0,0,60'", ["generate", "x", "--image", "p.png"], {"denoise": 0.5}, set()),
        ("region = '0,0,60'", ["generate", "x", "--photo", "p.png"], {}, {"region"}),
        ('mask-means = "keep"', ["generate", "x", "--image", "p.png"], {}, {"mask_means"}),
        ("mask-grow = 3", ["upscale", "p.png", "--to", "256"], {}, {"mask_grow"}),
        ("mask-grow = 3", ["upscale", "p.png", "--to", "256", "--mask", "m.png"], {"mask_grow": 3}, set()),
        ("denoise = 0.5", ["plan"], {}, {"denoise"}),
        ("expand-highlights = true\nforce = true\npreview = true",
         ["generate", "x", "--no-expand-highlights", "--no-force", "--no-preview"],
         {"expand_highlights": False, "force": False, "preview": False}, set()),
        ("strict = true", ["plan", "--no-strict"], {"strict": False}, set()),
        ("[inspect]\njson = true", ["inspect", "p.png", "--no-json"], {"as_json": False}, set()),
    ],
)  # fmt: skip
def test_what_is_typed_counts_first_and_what_means_nothing_here_is_passed_over(
    tmp_path, text, line, taken, passed_over
):
    file = written(tmp_path / "c.toml", text)
    command = COMMANDS[line[0]]
    group = typer.Context(typer.main.get_command(app))
    context = typer.Context(command, parent=group, info_name=line[0])
    context.default_map = profile.defaults(*profile.read(file), COMMANDS)[line[0]]
    command.parse_args(context, line[1:])
    assert {name: context.params[name] for name in taken} == taken
    for name in passed_over:
        (option,) = (one for one in command.params if one.name == name)
        assert context.params[name] == option.default
    assert not current().taken.options & passed_over


def test_an_error_about_a_default_names_its_file(tmp_path):
    file = written(tmp_path / "c.toml", 'scheduler-eta = 0.5\nvram = "12"\n')
    wrong, right = dit360(
        ["--config", file, "generate", "x", "-o", "x.jpg", "--width", "128"],
        ["--config", file, "generate", "x", "-o", "x.jpg", "--width", "128", "--scheduler-eta", "0.25"],
        cwd=tmp_path,
    )
    assert (wrong.code, right.code) == (2, 2)
    assert "--scheduler-eta 0.5 has no effect" in wrong.err
    assert wrong.err.endswith(f"(--scheduler-eta is from {file}).\n")
    assert str(file) not in right.err


def test_a_budget_of_the_defaults_is_taken_back():
    assert LoadOptions(vram="none", ram="None") == LoadOptions()


def test_a_server_is_not_told_of_defaults_for_a_part_that_nothing_says(tmp_path):
    Image.new("RGB", (64, 32)).save(tmp_path / "p.png")
    Image.new("RGBA", (64, 32)).save(tmp_path / "hole.png")

    def told(name):
        own = {"denoise": 0.5, "mask_grow": 3.0}
        saving = {"bits": None, "expand_highlights": False}
        return _wanted("x", Path("x.jpg"), tmp_path / name, None, (), saving, own, frozenset()).options

    begin({}, [])
    assert told("p.png")["mask_grow"] == 3.0  # which somebody typed, and is refused
    take(Taken(file=Path("c.toml"), options=frozenset({"mask_grow"})))
    assert told("p.png") == {"prompt": "x", "denoise": 0.5}
    assert told("hole.png")["mask_grow"] == 3.0
    begin({}, [])


@pytest.mark.parametrize(
    ("name", "kept"),
    [("x.jpg", (None, False)), ("x.png", (16, False)), ("x.exr", (16, True)), ("x.none", (16, True))],
)
def test_how_a_file_is_written_is_passed_over_where_its_format_cannot_hold_it(name, kept):
    saving = {"bits": 16, "expand_highlights": True, "force": False}
    begin({}, [])
    assert usable(saving, Path(name)) == saving  # which somebody typed, and is refused
    take(Taken(file=Path("c.toml"), options=frozenset({"bits", "expand_highlights"})))
    assert usable(saving, Path(name)) == {"bits": kept[0], "expand_highlights": kept[1], "force": False}
    begin({}, [])


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files there")
def test_defaults_in_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(InputError, match="it is no file"):
        profile.read(tmp_path / "c.toml")


# ------------------------------------------------------------------------------------------------- a picture like it


def like(tmp_path, **used):
    settings = {"prompt": "a sea", "requested": {"steps": 3}, "used": {"seed": 4, "model": "tiny", **used}}
    Panorama(Image.new("RGB", (64, 32)), settings=settings).save(tmp_path / "p.png", force=True)
    return options_like(tmp_path / "p.png")


def like_asked(tmp_path, requested=(), hold=None, beside=None, **settings):
    used = {"seed": 4, "model": "tiny", **({} if hold is None else {"hold": hold}), **settings.pop("used", {})}
    told = {"prompt": "a sea", "requested": dict(requested), "used": used, **settings}
    Panorama(Image.new("RGB", (64, 32)), settings=told).save(tmp_path / "p.png", force=True)
    found, sentences = options_like(tmp_path / "p.png", Beside(**(beside or {})))
    return found, plain(" ".join(sentences))


MASKED = {"mask": [64, 32], "transparency": False}
REGION = {"region": "1,2,60", "transparency": False}
LAID = {"name": "a.png", "fov": 70.25, "yaw": 40, "pitch": 0.0, "roll": 0.0}


@pytest.mark.parametrize(
    ("requested", "hold", "beside", "kept", "said", "unsaid"),
    [
        ({"denoise": 0.5}, None, {"image": True}, {"denoise": 0.5}, "", "made of"),
        ({"denoise": 0.5}, None, {}, {}, "denoise=0.5 is left out", "mask"),
        ({"denoise": 0.5}, None, {"typed": {"denoise": 0.4}}, {}, "give that with image", "left out"),
        (
            {"mask_grow": 3.0, "mask_means": "keep"}, MASKED, {"image": True, "mask": True},
            {"mask_grow": 3.0, "mask_means": "keep"}, "", "made",
        ),
        (
            {"mask_grow": 3.0}, MASKED, {"image": True}, {},
            "was made with a mask, which it does not hold; give that with mask", "another picture",
        ),
        (
            {"mask_grow": 3.0}, MASKED, {}, {},
            "of another picture and with a mask, which it does not hold; give those with image and mask", "photo",
        ),
        ({"region": "1,2,60", "mask_soften": 8.0}, REGION, {"image": True},
         {"region": "1,2,60", "mask_soften": 8.0}, "", "left out"),
        ({"region": "1,2,60", "mask_soften": 8.0}, REGION, {"image": True, "mask": True},
         {"mask_soften": 8.0}, "region=1,2,60 is left out, as the mask says", "mask_soften"),
        ({"faithful": "never", "denoise": 0.5}, None, {"image": True}, {"denoise": 0.5},
         "faithful=never is left out, as no picture is made larger", "denoise"),
        ({"mask_grow": 3.0}, {"photos": [LAID]}, {}, {},
         'around the photo "a.png;fov=70.25;yaw=40;pitch=0;roll=0", which it does not hold; give that with photo',
         "image"),
    ],
)  # fmt: skip
def test_options_of_another_picture_are_kept_with_it_and_told_without(
    tmp_path, requested, hold, beside, kept, said, unsaid
):
    found, told = like_asked(tmp_path, requested, hold, beside)
    assert {name: found[name] for name in requested if name in found} == kept
    assert said in told
    assert unsaid not in told


def test_what_an_edit_left_at_its_default_counts_before_a_users_own(tmp_path):
    found, _ = like_asked(tmp_path, {"region": "1,2,60"}, REGION, {"image": True})
    assert (found["mask_grow"], found["paste_back"], found["denoise"]) == (None, True, 1.0)


@pytest.mark.parametrize(
    ("text", "typed", "kept"),
    [
        ("{}", {}, {"fov": 70.25, "yaw": 40.0, "pitch": 0.0, "roll": 0.0}),
        ("{}", {"fov": 70.0}, {"yaw": 40.0, "pitch": 0.0, "roll": 0.0}),
        ("{};yaw=5", {}, {"fov": 70.25, "pitch": 0.0, "roll": 0.0}),
    ],
)
def test_a_photo_lies_where_that_of_the_picture_does_but_for_what_is_given(tmp_path, text, typed, kept):
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    beside = {"photos": (text.format(tmp_path / "a.png"),), "typed": typed}
    found, told = like_asked(tmp_path, {"mask_grow": 3.0}, {"photos": [LAID]}, beside)
    assert {name: found[name] for name in ("fov", "yaw", "pitch", "roll") if name in found} == kept
    assert found["mask_grow"] == 3.0
    assert ("yaw=40" in told) == ("yaw" in kept)
    assert "image" not in told


def test_the_lens_of_the_same_photo_is_read_from_it_as_metadata_round_it(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 27  # on 35 mm film
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg", exif=exif)
    exact = Photo.open(tmp_path / "a.jpg").fov
    photo = {**LAID, "fov": round(exact, 4)}
    found, _ = like_asked(tmp_path, {}, {"photos": [photo]}, {"photos": (str(tmp_path / "a.jpg"),)})
    assert photo["fov"] != exact
    assert "fov" not in found
    assert found["yaw"] == 40.0


def test_a_part_of_a_panorama_says_itself_where_it_lies(tmp_path):
    Panorama(Image.new("RGB", (64, 32))).save(tmp_path / "a.png")
    found, told = like_asked(tmp_path, {}, {"photos": [LAID]}, {"photos": (str(tmp_path / "a.png"),)})
    assert "yaw" not in found
    assert "are left out, as" in told


def test_of_several_photos_nobody_knows_which_is_which(tmp_path):
    beside = {"photos": ("x.png;yaw=1", "y.png;yaw=2")}
    found, told = like_asked(tmp_path, {}, {"photos": [LAID, {**LAID, "name": "b.png"}]}, beside)
    assert not {"fov", "yaw"} & found.keys()
    assert '"a.png;fov=70.25;yaw=40;pitch=0;roll=0", the photo "b.png;' in told


def test_every_option_of_a_model_is_taken_told_or_without_effect_on_the_picture(tmp_path):
    shown = options_of(LoadOptions).keys() - likeness._NOT_SHOWN
    for name in shown:
        found, told = like_asked(tmp_path, {name: 512}, used={"model": None})
        assert name in found or name in told, name
    found, _ = like_asked(
        tmp_path, {"vae_tile_size": 512, "vae_tile_overlap": 64, "vae_auto_tile_pixels": 0, "log_memory_stats": True}
    )
    assert (found["vae_tile_size"], found["vae_tile_overlap"], found["vae_auto_tile_pixels"]) == (512, 64, 0)
    assert "log_memory_stats" not in found


@pytest.mark.parametrize("name", ["vram", "preset", "quantization_mode"])
def test_a_quantization_that_memory_chose_is_told(tmp_path, name):
    used = {"quantization": {"requested": "auto", "used": "int8"}}
    _, told = like_asked(tmp_path, {name: "auto"}, used=used)
    assert "quantization_mode=int8" in told
    _, told = like_asked(tmp_path, {name: "auto"}, used=used, beside={"typed": {"quantization_mode": "none"}})
    assert told == ""


@pytest.mark.parametrize(
    ("requested", "typed", "left", "said"),
    [
        ({"width": 128, "height": 64}, {"width": 256}, {}, ""),
        ({"width": 128, "height": 64}, {"height": 32}, {}, ""),
        ({"width": 128, "height": 64}, {"width": 64, "height": 32}, {"width": 128, "height": 64}, ""),
        ({"tiling_level": "stored"}, {"tiling_mode": "never"}, {}, "tiling_level=stored"),
        ({"tiling_mode": "never"}, {"tiling_level": "stored"}, {}, "tiling_mode=never"),
        ({"quantization_parts": "text"}, {"quantization_mode": "none"}, {}, "quantization_parts=text"),
        ({"circular_mode": "bias"}, {"circular_padding": 0}, {}, "circular_mode=bias"),
        ({"scheduler_eta": 0.5}, {"scheduler_type": "flow_match"}, {}, "scheduler_eta=0.5"),
        ({"scheduler_eta": 0.5}, {"scheduler_type": "ddim"}, {"scheduler_eta": 0.5}, ""),
    ],
)
def test_what_is_typed_leaves_out_what_would_contradict_it(tmp_path, requested, typed, left, said):
    found, told = like_asked(tmp_path, requested, beside={"typed": typed})
    assert {n: v for n, v in found.items() if n in requested and n not in typed} == {
        n: v for n, v in left.items() if n not in typed
    }
    assert (f"{said}, without effect" in told) if said else ("without effect" not in told)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_text_of_which_the_file_holds_the_beginning_is_to_be_given(tmp_path, name):
    cut = {name: f"a harbour{SHORTENED}"}
    with pytest.raises(InputError, match="only the beginning of"):
        like_asked(tmp_path, **cut)
    given = {"prompt": True} if name == "prompt" else {"typed": {name: "fog"}}
    like_asked(tmp_path, beside=given, **cut)


def test_options_that_metadata_had_no_room_for_are_told(tmp_path):
    _, told = like_asked(tmp_path, {"steps": 3, "shortened": True})
    assert "does not name all options" in told
    assert "does not know" not in told


def test_a_picture_tells_of_every_part_of_its_model(tmp_path):
    found, told = like(
        tmp_path, model="dit360", transformer="flux1-dev-Q4_K_S.gguf", t5="t5.safetensors",
        loras=[{"from": "style.safetensors", "strength": 0.5}],
    )  # fmt: skip
    assert found == {
        "prompt": "a sea", "steps": 3, "seed": 4, "model": "dit360", "transformer": "flux1-dev-Q4_K_S.gguf",
        "t5": "t5.safetensors", "lora": ["style.safetensors:0.5"], "model_lora": False,
    }  # fmt: skip
    (said,) = told
    assert "flux1-dev-Q4_K_S.gguf" in said
    assert "style.safetensors:0.5" in said


def test_a_saved_picture_tells_all_that_decides_what_it_shows(tmp_path, tiny_folder):
    pipe = dit360_core.load(str(tiny_folder), quantization_mode="int8", quantization_parts="transformer", device="cpu")
    pipe.generate("a sea", width=64, steps=1, seed=3).save(tmp_path / "p.png")
    found, told = options_like(tmp_path / "p.png")
    assert found["model"] == str(tiny_folder)
    assert (found["quantization_mode"], found["quantization_parts"]) == ("int8", "transformer")
    assert len(told) == 1  # which names the model
    assert "does not know" not in told[0]


def test_what_a_picture_of_strangers_names_is_told_before_it_is_used(tmp_path):
    _, told = like(tmp_path, model="stranger/model")
    assert any("stranger/model" in sentence for sentence in told)


@pytest.mark.parametrize(
    "lora",
    [
        {"from": "a", "strength": "abc"},
        {"from": "a", "strength": [1]},
        {"from": 3},
        {"from": "a", "strength": 10**400},
        "a",
    ],
)
def test_a_lora_that_is_none_is_left_out_and_told(tmp_path, lora):
    found, told = like(tmp_path, loras=[lora])
    assert "lora" not in found
    assert any("tells of a LoRA, and not how it is found" in sentence for sentence in told)


def test_the_file_is_found_and_what_is_given_counts_first(tmp_path):
    file = written(tmp_path / "c.toml", 'width = 128\nsteps = 3\n[generate]\nscheduler-type = "unipc"\n')
    dit360(["--config", os.devnull, "generate", "a sea", "--seed", "1", "--width", "128", "-o", "p.png"], cwd=tmp_path)
    given, own, missing, doctor, like, asked = dit360(
        ["--config", str(file), "generate", "a sea", "--seed", "1", "--steps", "2", "-o", "a.png"],
        ["generate", "a sea", "--seed", "1", "-o", "b.png"],
        ["--config", "none.toml", "generate", "a sea"],
        ["doctor", "--json"],
        ["generate", "--like", "p.png", "-o", "l.png"],
        ["--config", str(file), "doctor"],
        cwd=tmp_path, DIT360_CONFIG=str(file),
    )  # fmt: skip
    used = [Panorama.open(tmp_path / name).settings["used"] for name in ("a.png", "b.png")]
    assert [(one["width"], one["steps"], one["scheduler"]["used"]) for one in used] == [
        (128, 2, "unipc"), (128, 3, "unipc")
    ]  # fmt: skip
    assert (given.code, own.code, missing.code) == (0, 0, 2)
    assert "none.toml" in missing.err
    assert json.loads(doctor.out)["defaults"] == f"{file} (3 options)"
    assert f"{file} (3 options)" in asked.out
    # What a picture leaves at its default counts before the file, too.
    assert like.code == 0
    assert (tmp_path / "l.png").read_bytes() == (tmp_path / "p.png").read_bytes()


def test_a_value_of_a_commands_own_is_told_with_its_file_and_help_helps_in_any_case(tmp_path):
    file = written(tmp_path / "c.toml", "count = 0\n")
    name = written(tmp_path / "d.toml", "[generate]\noutput = 5\n")
    refused, helped, number = dit360(
        ["--config", str(file), "generate", "a sea"],
        ["--config", str(file), "generate", "-h"],
        ["--config", str(name), "generate", "a sea"],
        cwd=tmp_path,
    )
    assert (refused.code, helped.code, number.code) == (2, 0, 2)
    assert "c.toml: count" in refused.err
    assert "Usage" in helped.out
    assert "d.toml: output" in number.err


@pytest.mark.skipif(sys.platform == "win32", reason="of a shell that Windows has not")
def test_a_shell_is_told_what_completes_a_word(tmp_path):
    code = "import sys; sys.argv = ['dit360']; from dit360_core.cli import main; main()"
    words = {"_DIT360_COMPLETE": "complete_bash", "COMP_WORDS": "dit360 generate --wi", "COMP_CWORD": "2"}
    done = python(code, cwd=tmp_path, **words, **({"SHELL": os.environ["SHELL"]} if "SHELL" in os.environ else {}))
    assert {"--width", "--windows"} <= set(done.stdout.split())
    lines = {
        "dit360 gnerate --li": [], "dit360 generate -seed 5 --li": ["--like"], "dit360 --version gen": ["generate"],
        "dit360 generate --help-all --li": ["--like"], "dit360 --nothing gen": ["generate"],
    }  # fmt: skip
    for line, completed in lines.items():
        words = {"_DIT360_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = python(code, cwd=tmp_path, **words)
        assert (done.stdout.split(), done.stderr) == (completed, ""), line
    (told,) = dit360(["--help"], cwd=tmp_path)
    assert "--install-completion" in told.out


# ------------------------------------------------------------------------------------------------------------ shards


def test_shards_are_the_list_and_their_pictures_those_of_all(tmp_path):
    (tmp_path / "l.txt").write_text("a\nb\nc\nd\ne\n")
    whole = Batch(tmp_path / "l.txt", tmp_path / "whole", model="tiny", width=128, steps=1)
    shards = [
        Batch(tmp_path / "l.txt", tmp_path / "out", model="tiny", width=128, steps=1, shard=f"{part}/3")
        for part in (1, 2, 3)
    ]
    assert [len(one.items) for one in shards] == [2, 2, 1]
    assert {item.key for one in shards for item in one.items} == {item.key for item in whole.items}
    # Two at a time, in one folder.
    first, second = (one.run() for one in shards[:2])
    outcomes = [next(first), next(second), *first, *second, *shards[2].run()]
    assert {outcome.status for outcome in outcomes} == {"done"}
    names = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert names == {item.name for item in whole.items} | {f"manifest-{part}-of-3.jsonl" for part in (1, 2, 3)}
    assert Batch(tmp_path / "l.txt", tmp_path / "out", model="tiny", width=128, steps=1).missing == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "/2", "1/", "a/b", "-1/2", "1/0", "1/2/3"])
def test_a_part_that_is_none_is_told(text):
    with pytest.raises(InputError, match="must be such as 2/8"):
        shard_of(text)
    assert shard_of(" 2 / 8 ") == (2, 8)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((1, 1), (2, 3), False),
        ((2, 3), (1, 1), False),
        ((1, 2), (1, 3), False),
        ((2, 3), (2, 3), False),
        ((1, 3), (2, 3), True),
    ],
)
def test_parts_of_one_list_write_side_by_side_and_nobody_else(tmp_path, monkeypatch, first, second, together):
    monkeypatch.setattr(folders, "LOOKING", 0.05)
    one, other = Folder(tmp_path, first), Folder(tmp_path, second)
    with one.locked():
        if together:
            with other.locked():
                pass
        else:
            with pytest.raises(InputError, match="Another batch is writing into"), other.locked():
                pass
    for each in (other, one):  # nobody who refused or ended holds a lock
        with each.locked():
            pass
