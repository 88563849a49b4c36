"""Several pictures of one command, a picture like another, a user's own defaults, parts of a list."""

import io
import json
import os
import sys
from pathlib import Path

import dit360_core
import pytest
import typer
from command_line import dit360, python
from dit360_core.batching import Batch
from dit360_core.batching import folder as folders
from dit360_core.batching.folder import Folder
from dit360_core.batching.running import shard_of
from dit360_core.cli import app, profile, terminal
from dit360_core.cli.likeness import options_like
from dit360_core.cli.several import counted, names_of
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
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
        ["generate", "a tree", "--image", "sea-1.png", "--region", "0,0,60", "--steps", "2", "-o", "edit.png"],
        ["generate", "--like", "edit.png", "-o", "like-edit.png"],
        ["generate", "-o", "x.png"],
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
    assert Panorama.open(folder / "like-edit.png").settings["prompt"] == "a tree"


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
    assert [one.code for one in told] == [0, 0, 2]
    assert all("Cannot read the defaults" in one.err for one in told)
    assert "--output" in told[0].out
    assert "Cannot read the defaults" in json.loads(told[1].out)["defaults"]


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
