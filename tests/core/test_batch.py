"""A list becomes a folder of pictures: what is read, what goes on after an interruption, what is told."""

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import attrs
import numpy as np
import pytest
from command_line import dit360, install, python
from dit360_core.batching import Batch
from dit360_core.batching.folder import Folder
from dit360_core.batching.items import SAME_PICTURE, TILES, Batchwide, read_items
from dit360_core.errors import Dit360Error, InputError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.panorama.formats import Saving
from dit360_core.panorama.picture import Panorama
from PIL import Image
from safetensors.torch import load_file, save_file

SMALL = {"width": 128, "steps": 1}
SMALL_FLAGS = ["--width", "128", "--steps", "1"]
LOADING = {field.name for field in LoadOptions.__attrs_attrs__}


def listed(path, *lines, **options):
    """The items of a list with these lines."""
    path.write_text("\n".join(lines), encoding="utf-8")
    loading = LoadOptions(**{name: options.pop(name) for name in list(options) if name in LOADING})
    return read_items(path, Batchwide(folder=path.parent / "out", suffix=".png", loading=loading, options=options))


def written(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


# -------------------------------------------------------------------------------------------------------- the list


def test_the_three_kinds_of_lists_mean_the_same(tmp_path):
    text = listed(tmp_path / "a.txt", "a castle, at night", "", "  a calm sea  ")
    jsonl = listed(tmp_path / "a.jsonl", '{"prompt": "a castle, at night"}', "", '"a calm sea"')
    table = listed(tmp_path / "a.csv", "prompt,steps", '"a castle, at night",', "a calm sea,")
    for items in (text, jsonl, table):
        assert [item.sampling.prompt for item in items] == ["a castle, at night", "a calm sea"]
    assert [i.key for i in text] == [i.key for i in jsonl] == [i.key for i in table]
    assert [i.name for i in text] == [i.name for i in jsonl] == [i.name for i in table]
    assert [i.line for i in text] == [i.line for i in jsonl] == [1, 3]


def test_a_line_says_any_option_of_its_picture_and_the_command_the_others(tmp_path):
    first, second = listed(
        tmp_path / "a.csv",
        "prompt,seed,steps,guidance,yaw_consistency,tiling_mode,name",
        "one,5,3,2.5,0,never,rooms/one.jpg",
        "two,,,,,,",
        steps=9,
        seed=1,
    )
    assert (first.sampling.seed, first.sampling.steps, first.sampling.guidance) == (5, 3, 2.5)
    assert (first.decoding.tiling_mode, first.name) == ("never", "rooms/one.jpg")
    assert (second.sampling.seed, second.sampling.steps) == (1, 9)
    assert second.name.startswith("two-")
    assert second.name.endswith(".png")


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.jsonl", ['{"prompt": "a"}', "{prompt: 1}"], "line 2: it is not JSON"),
        ("a.jsonl", ["[1]"], "line 1: it is no JSON object"),
        ("a.jsonl", ['{"prompt": "a", "prompt": "b"}'], "line 1: it says prompt twice"),
        ("a.jsonl", ['{"steps": 4}'], "line 1: it has no prompt"),
        ("a.jsonl", ['{"prompt": ""}'], "line 1: The prompt is empty"),
        ("a.jsonl", ['{"prompt": "a", "stesp": 4}'], "line 1: there is no option 'stesp'; did you mean steps?"),
        ("a.jsonl", ['{"prompt": "a", "model": "dit360"}'], "line 1: model belongs to the model, which is loaded once"),
        ("a.jsonl", ['{"prompt": "a", "steps": "4"}'], "line 1: steps must be a whole number, not '4'"),
        ("a.jsonl", ['{"prompt": "a", "width": 130}'], "line 1: The size width 130 cannot be made"),
        ("a.jsonl", ['{"prompt": "a", "name": "../a.jpg"}'], "line 1: '../a.jpg' cannot name a file"),
        ("a.jsonl", ['{"prompt": "a", "name": "a.gif"}'], "its ending says no known format"),
        ("a.jsonl", ['{"prompt": "a", "name": 4}'], "line 1: name must be text, not 4"),
        ("a.jsonl", ['{"prompt": "a", "image": "gone.png"}'], "line 1: there is no file"),
        ("a.jsonl", ['{"prompt": "a", "mask": "gone.png"}'], "line 1: there is no file"),
        ("a.jsonl", ['{"prompt": "a", "photo": "gone.png;fov=60"}'], "line 1: there is no file"),
        ("a.jsonl", ['{"prompt": "a", "photo": [5]}'], "line 1: photo must be text or a list of texts, not [5]"),
        ("a.jsonl", ['{"prompt": "a", "photo": "|"}'], "line 1: photo names no file; name one, or leave it out"),
        ("a.jsonl", ['{"prompt": "a", "photo": []}'], "line 1: photo names no file; name one, or leave it out"),
        ("a.csv", ["prompt,photo", "a, |"], "line 2: photo names no file; name one, or leave it out"),
        ("a.jsonl", ['{"prompt": "a", "lora": "|"}'], "line 1: lora names no LoRA; name one, or leave it out"),
        ("a.jsonl", ['{"prompt": "a", "upscale": "512.5"}'], "line 1: upscale is '512.5', but must be a width"),
        ("a.csv", ["prompt,upscale", "a,512.5"], "line 2: upscale is '512.5', but must be a width"),
        ("a.jsonl", ['{"prompt": "a", "photo": "x.png;zoom=6"}'], "line 1: photo 'x.png;zoom=6' says 'zoom=6'"),
        ("a.jsonl", ['{"prompt": "a", "region": "left"}'], "line 1: region is 'left'"),
        ("a.jsonl", ['{"prompt": "a", "yaw": 5}'], "line 1: yaw=5 has no effect, because there is no photo"),
        ("a.jsonl", ['{"prompt": "a", "name": "A.jpg"}', '{"prompt": "b", "name": "a.JPG"}'], "that of line 1 already"),
        ("a.jsonl", ['{"prompt": "a", "seed": 1}'] * 2, "line 2: it is the picture of line 1 again"),
        ("a.jsonl", ['{"prompt": "\\ud800"}'], "line 1: The prompt holds bytes that are no text"),
        ("a.csv", ["text,steps", "a,4"], "line 1: the header has no column prompt, but text, steps"),
        ("a.jsonl", ['{"prompt": "a", "seed": 1' + 5000 * "1" + "}"], "line 1: it is not JSON (Exceeds the limit"),
        ("a.jsonl", ['{"prompt": "a", "name": "x.jpg"}', '{"prompt": "b", "name": "x.jpg/y.jpg"}'], "can be no folder"),
        ("a.csv", ["prompt,steps,steps", "a,4,5"], "two columns 'steps'"),
        (
            "a.csv",
            ["prompt,steps", "a,4,5"],
            "line 2: it has not the 2 columns of the header, but 3; quote texts",
        ),
        ("a.csv", ["prompt,steps", "a"], "line 2: it has not the 2 columns of the header, but 1"),
        ("a.csv", ["prompt,guidance", "a,3,5"], "and write numbers with a decimal point (3.5)"),
        (
            "a.csv",
            ["prompt", "a, or b"],
            "line 2: it has not the one column of the header, but 2; quote texts",
        ),
        (
            "a.csv",
            ["prompt;guidance", "a;3,5"],
            "line 2: guidance must be a number, not '3,5'; write it with a decimal point: 3.5.",
        ),
        ("a.csv", ["prompt;guidance", "a;1.234,5"], "not '1.234,5'; write it with a decimal point: 1234.5."),
        ("a.csv", ["prompt;steps", "a;2.000"], "line 2: steps must be a whole number, not '2.000'"),
        ("a.jsonl", ['{"prompt": "a", "guidance": "2,25"}'], "not '2,25'; write it with a decimal point: 2.25."),
        ("a.csv", ["sep=;", "prompt;steps", "a;four"], "line 3: steps must be a whole number, not 'four'"),
        ("a.csv", ["sep=", "prompt;steps", "a;4"], "line 1: sep= names no sign; write sep=; or leave the line out"),
        ("a.csv", ["sep=;", "text;steps", "a;4"], "line 2: the header has no column prompt, but text, steps"),
        ("a.csv", ["prompt;;steps", "a;what?;4"], "line 2: column 2 holds 'what?' and has no name in the header"),
        ("a.csv", ["prompt;notes, if any;steps", "a;why;4"], "line 2: there is no option 'notes, if any'"),
        ("a.csv", ["", ";;"], "is empty; name the columns in the first line, one of them prompt."),
        ("a.csv", ["prompt,name", "a,v1.gif"], "its ending says no known format; end it in .jpg"),
        ("a.csv", ["prompt,name", "a,v1."], "line 2: 'v1.' cannot name a file"),
        ("a.csv", ["prompt,steps", "a,four"], "line 2: steps must be a whole number, not 'four'"),
        ("a.csv", ["prompt", '"a'], "it is not CSV"),
        ("a.txt", ["", " "], "lists no pictures"),
        ("a.md", ["a"], "the suffix says no known kind of list"),
    ],
)
def test_what_is_wrong_in_a_list_is_told_with_its_line(tmp_path, name, lines, said):
    with pytest.raises(InputError) as told:
        listed(tmp_path / name, *lines)
    assert said in str(told.value)


def test_a_list_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("Schloß".encode("latin-1"))
    (tmp_path / "a.csv").write_bytes("prompt\nSchloß".encode("cp1252"))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfea")
    for name, said in (
        ("a.txt", "it is not UTF-8 text (byte 5); save it as UTF-8."),
        ("a.csv", 'it is not UTF-8 text (byte 12); save it as UTF-8 (in Excel: "CSV UTF-8").'),
        ("c.txt", "it is not the UTF-16 text that its first bytes say"),
        ("b.txt", "there is no such file"),
    ):
        with pytest.raises(InputError, match=said.replace("(", r"\(").replace(")", r"\)")):
            read_items(tmp_path / name, Batchwide(folder=tmp_path, suffix=".jpg", loading=LoadOptions(), options={}))


def test_a_seed_that_nobody_gives_is_the_same_in_every_run_and_another_for_each_picture(tmp_path):
    once = listed(tmp_path / "a.txt", "a castle", "a castle", "a sea")
    again = listed(tmp_path / "b.txt", "a sea", "a castle", "a castle", "a hut")
    assert len({item.sampling.seed for item in once}) == 3
    assert {item.sampling.seed for item in once} < {item.sampling.seed for item in again}
    assert [once[0].key, once[1].key, once[2].key] == [again[1].key, again[2].key, again[0].key]


def test_every_option_either_makes_another_picture_or_is_listed_as_one_that_does_not():
    """An option that is added must be put on one side or the other, or pictures that are done are taken for others."""
    shown = {
        "model", "lora", "lora_strength", "lora_mode", "model_lora", "vae", "t5", "clip", "transformer",
        "text_encoder", "models_dir",
                "quantization_parts",
        "quantization_skip", "prompt", "negative_prompt", "width", "height", "steps", "guidance", "true_guidance",
        "seed", "circular_padding", "circular_mode", "latent_rotation", "position_interpolation", "scheduler_type",
        "timestep_schedule", "scheduler_eta", "yaw_consistency", "cube_consistency", "denoise", "max_sequence_length",
        "prompt_prefix", "windows", "window_positions",
    }  # fmt: skip
    every = {f.name for cls in (LoadOptions, SampleOptions, DecodeOptions) for f in cls.__attrs_attrs__}
    assert shown | SAME_PICTURE == every
    assert not shown & SAME_PICTURE
    assert TILES <= SAME_PICTURE


def test_what_only_says_how_leaves_a_picture_the_same_and_what_is_shown_does_not(tmp_path):
    (plain,) = listed(tmp_path / "a.txt", "a castle", seed=1)
    (tiled,) = listed(tmp_path / "a.txt", "a castle", seed=1, tiling_level="recomputed")
    (other,) = listed(tmp_path / "a.txt", "a castle", seed=1, steps=3)
    assert plain.key == tiled.key != other.key


def test_tiles_that_change_a_picture_are_part_of_what_it_is(tmp_path):
    small, large = (
        listed(tmp_path / "a.txt", "a castle", seed=1, tiling_backend="blended", vae_tile_size=size)[0].key
        for size in (512, 768)
    )
    exact, whole = (listed(tmp_path / "a.txt", "a castle", seed=1, tiling_backend=b)[0].key for b in ("exact", "whole"))
    assert small != large
    assert exact == whole == listed(tmp_path / "a.txt", "a castle", seed=1)[0].key


def test_a_number_is_the_same_however_a_list_writes_it(tmp_path):
    keys = {
        listed(tmp_path / "a.jsonl", '{"prompt": "a", "guidance": 3}')[0].key,
        listed(tmp_path / "a.jsonl", '{"prompt": "a", "guidance": 3.0}')[0].key,
        listed(tmp_path / "a.csv", "prompt,guidance", "a,3")[0].key,
        listed(tmp_path / "b.csv", "Prompt; Guidance", "a;3.00", ";")[0].key,
    }
    assert len(keys) == 1


def test_named_lines_keep_their_seeds_when_others_come_before_them(tmp_path):
    lines = [json.dumps({"prompt": "a castle", "name": f"{n}.png"}) for n in range(3)]
    before = listed(tmp_path / "a.jsonl", *lines[1:])
    after = listed(tmp_path / "a.jsonl", *lines)
    assert before == tuple(attrs.evolve(item, line=item.line - 1) for item in after[1:])


def test_other_weights_under_the_same_name_are_another_model(tmp_path, tiny_copy, monkeypatch):
    source = written(tmp_path / "list.txt", "a castle")
    (first,) = Batch(source, tmp_path / "out", model=str(tiny_copy), **SMALL).run()
    monkeypatch.chdir(tiny_copy.parent)
    assert not Batch(source, tmp_path / "out", model=f"./{tiny_copy.name}/", **SMALL).missing
    weights = next((tiny_copy / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, weights)
    (second,) = Batch(source, tmp_path / "out", model=str(tiny_copy), **SMALL).run()
    assert second.file != first.file


# ------------------------------------------------------------------------------------------------------- the folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of seven pictures of every kind, and the folder that it became."""
    where = tmp_path_factory.mktemp("batch")
    Image.fromarray(np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (64, 1, 3))).save(where / "begin.png")
    lines = [
        {"prompt": "a castle", "seed": 7},
        {"prompt": "a castle", "seed": 8, "name": "rooms/eight.png"},
        {"prompt": "a sea", "steps": 2, "scheduler_type": "unipc"},
        {"prompt": "a hut", "image": "begin.png", "denoise": 0.6, "steps": 2, "name": "hut.webp"},
        {"prompt": "ein Schloß im Nebel"},
        {"prompt": "a hut", "image": "begin.png", "mask": "mask.png", "mask_grow": 2.0, "name": "edited.png"},
        {"prompt": "a field", "photo": "photo.png;fov=70;yaw=170", "name": "around.png"},
    ]
    Image.new("L", (128, 64)).save(where / "mask.png")
    with Image.open(where / "mask.png") as mask:
        mask.paste(255, (30, 20, 60, 40))
        mask.save(where / "mask.png")
    Image.new("RGB", (90, 60), "teal").save(where / "photo.png")
    written(where / "list.jsonl", *lines)
    batch = Batch(where / "list.jsonl", where / "out", **SMALL)
    batch.outcomes = list(batch.run())
    return batch


def test_every_line_becomes_its_picture(folder):
    assert [outcome.status for outcome in folder.outcomes] == ["done"] * 7
    names = [outcome.file.relative_to(folder.folder.path).as_posix() for outcome in folder.outcomes]
    assert names[1] == "rooms/eight.png"
    assert names[3] == "hut.webp"
    assert names[4].startswith("ein-schloss-im-nebel-")
    for outcome in folder.outcomes:
        picture = Panorama.open(outcome.file)
        assert picture.size == (128, 64)
        assert picture.settings["prompt"] == outcome.prompt
        assert picture.settings["used"]["seed"] == outcome.seed


def test_a_picture_of_a_batch_is_that_of_generate(folder, tiny):
    alone = tiny.generate("a castle", seed=8, **SMALL)
    assert Panorama.open(folder.folder.path / "rooms" / "eight.png").image.tobytes() == alone.image.tobytes()


def test_edits_and_photos_of_a_batch_keep_what_they_are_given(folder):
    edited, around = (Panorama.open(outcome.file) for outcome in folder.outcomes[-2:])
    begin = np.asarray(Image.open(folder.source.parent / "begin.png").convert("RGB"))
    assert (np.asarray(edited.image)[20:44, 100:] == begin[20:44, 100:]).all()
    assert (np.asarray(edited.image)[22:38, 32:58] != begin[22:38, 32:58]).any()
    assert edited.settings["used"]["hold"]["mask"] == [128, 64]
    assert edited.settings["requested"]["mask_grow"] == 2.0
    # Yaw 170 of 128 columns: around the 124th.
    assert (np.asarray(around.image)[30:34, 120:127] == (0, 128, 128)).all()
    assert around.settings["used"]["hold"]["photos"][0]["yaw"] == 170


def test_what_a_picture_is_made_from_tells_it_from_others(tmp_path):
    for name, colour in (("p.png", "red"), ("q.png", "blue")):
        Image.new("RGB", (128, 64), colour).save(tmp_path / name)
        Image.new("L", (128, 64), colour).save(tmp_path / f"mask-{name}")
    kinds = [
        {"image": "p.png", "mask": "mask-p.png"},
        {"image": "q.png", "mask": "mask-p.png"},
        {"image": "p.png", "mask": "mask-q.png"},
        {"image": "p.png", "mask": "mask-q.png", "mask_means": "keep"},
        {"image": "p.png", "region": "0,0,60"},
        {"image": "p.png", "region": "0,0,60", "paste_back": False},
        {"photo": "p.png;fov=60"},
        {"photo": "p.png", "fov": 70},
        {"photo": ["p.png;fov=60", "q.png;fov=60;yaw=90"]},
    ]
    items = listed(tmp_path / "list.jsonl", *(json.dumps({"prompt": "a", "seed": 1, **kind}) for kind in kinds))
    assert len({item.key for item in items}) == len(kinds)


def test_options_for_all_pictures_of_a_list_are_left_out_where_they_mean_nothing(tmp_path):
    """In one list: a prompt alone, a picture to begin with, a transparent one, a mask, a region, a photo."""
    Image.new("RGB", (128, 64)).save(tmp_path / "p.png")
    Image.new("L", (128, 64)).save(tmp_path / "m.png")
    Image.new("RGBA", (128, 64)).save(tmp_path / "hole.png")
    lines = [
        {},
        {"image": "p.png", "denoise": 0.5},
        {"image": "hole.png"},
        {"image": "p.png", "mask": "m.png"},
        {"image": "p.png", "region": "0,0,60"},
        {"photo": "p.png"},
    ]
    options = {"fov": 60.0, "mask_means": "keep", "mask_grow": 3.0, "paste_back": False}
    items = listed(tmp_path / "a.jsonl", *(json.dumps({"prompt": "a", **line}) for line in lines), **options)
    grown = [item.files.open().options.mask_grow for item in items]
    assert grown == [None, None, 3.0, 3.0, 3.0, 3.0]
    assert [item.files.open().options.mask_means for item in items] == [*["repaint"] * 3, "keep", *["repaint"] * 2]
    assert items[-1].files.open().photos[0].fov == 60
    with pytest.raises(InputError, match="has no effect, because nothing is kept"):
        listed(tmp_path / "b.jsonl", '{"prompt": "a", "image": "p.png", "denoise": 0.5, "mask_grow": 3.0}')[
            0
        ].files.open()


def test_photos_of_a_table_stand_side_by_side_in_one_cell(tmp_path):
    for name in ("p.png", "q.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    (item,) = listed(tmp_path / "a.csv", "prompt,photo,fov", "a,p.png;yaw=5 | q.png;yaw=90,60")
    assert item.files.photos == ("p.png;yaw=5", "q.png;yaw=90")
    assert len(item.files.open().photos) == 2


def test_the_manifest_has_a_line_for_each_picture_in_the_order_of_the_list(folder):
    lines = [json.loads(line) for line in folder.folder.manifest.read_text("utf-8").splitlines()]
    assert [line["line"] for line in lines] == [*range(1, 8)]
    assert {line["status"] for line in lines} == {"done"}
    assert [line["seed"] for line in lines] == [item.sampling.seed for item in folder.items]
    for line in lines:
        assert line["sha256"] == hashlib.sha256((folder.folder.path / line["file"]).read_bytes()).hexdigest()


def test_what_is_done_is_not_done_again_and_nothing_is_loaded(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.folder.path.rglob("*.*g*")}
    code = (
        "import sys; from dit360_core.batching import Batch\n"
        f"batch = Batch({str(folder.source)!r}, {str(folder.folder.path)!r}, width=128, steps=1)\n"
        "print(len(batch.done), list(batch.run()), 'torch' in sys.modules)"
    )
    assert python(code, cwd=tmp_path, fresh=True).stdout.split() == ["7", "[]", "False"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_manifest_that_is_lost_or_torn_is_made_anew_from_the_pictures(folder):
    right = folder.folder.manifest.read_text("utf-8")
    folder.folder.manifest.write_text(right[:-40], encoding="utf-8")
    assert list(Batch(folder.source, folder.folder.path, **SMALL).run()) == []
    lines = [json.loads(line) for line in folder.folder.manifest.read_text("utf-8").splitlines()]
    wanted = [json.loads(line) for line in right.splitlines()]
    assert [(line["file"], line["sha256"]) for line in lines] == [(line["file"], line["sha256"]) for line in wanted]


def test_a_picture_that_was_deleted_is_made_again_the_same(tmp_path):
    source = written(tmp_path / "list.txt", "a castle", "a sea")
    (first, _) = Batch(source, tmp_path / "out", **SMALL).run()
    before = first.file.read_bytes()
    first.file.unlink()
    (again,) = Batch(source, tmp_path / "out", **SMALL).run()
    assert again.file == first.file
    assert again.file.read_bytes() == before


def test_lines_that_are_added_are_made_beside_the_others_and_stay_in_the_manifest(tmp_path):
    source = written(tmp_path / "list.txt", "a castle")
    (first,) = Batch(source, tmp_path / "out", **SMALL).run()
    written(source, "a hut")
    (second,) = Batch(source, tmp_path / "out", **SMALL).run()
    assert set(Folder(tmp_path / "out").entries()) == {first.file.name, second.file.name}


def test_a_file_that_is_another_picture_is_never_replaced_unless_it_is_said(tmp_path):
    (tmp_path / "out").mkdir()
    Image.new("RGB", (128, 64), "red").save(tmp_path / "out" / "mine.png")
    before = (tmp_path / "out" / "mine.png").read_bytes()
    source = written(tmp_path / "list.jsonl", {"prompt": "a castle", "name": "mine.png"})
    with pytest.raises(InputError, match="is there already and is another picture than line 1 asks for"):
        Batch(source, tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "mine.png").read_bytes() == before
    (made,) = Batch(source, tmp_path / "out", force=True, **SMALL).run()
    assert made.file.read_bytes() != before


def test_a_batch_goes_on_only_with_a_model_that_makes_the_same_pictures(tmp_path):
    """auto may decide otherwise another day, on another machine."""
    source = written(tmp_path / "list.txt", "a castle")
    (first,) = Batch(source, tmp_path / "out", **SMALL).run()
    picture = Panorama.open(first.file)
    used = {**picture.settings["used"], "precision": "fp16"}
    Panorama(image=picture.image, settings={**picture.settings, "used": used}).save(first.file, force=True)
    written(source, "a castle", "a sea")
    for begin in (Batch.check, lambda batch: list(batch.run())):
        with pytest.raises(InputError, match=r"was made with precision=fp16 .* the rest would now be made with prec"):
            begin(Batch(source, tmp_path / "out", **SMALL))
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 1


def test_naming_what_auto_had_taken_goes_on_with_the_same_pictures(tmp_path):
    source = written(tmp_path / "list.txt", "a castle")
    (first,) = Batch(source, tmp_path / "out", **SMALL).run()
    taken = Panorama.open(first.file).settings["used"]["precision"]
    named = {"precision": taken, "quantization_mode": "none", "tiling_backend": "exact"}
    assert not Batch(source, tmp_path / "out", **named, **SMALL).missing


@pytest.mark.parametrize("text", ['{"audio_filepath": "a.wav"}\n', "my notes\n", '{"file": 5}\n'])
def test_a_manifest_of_something_else_is_not_touched(tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_text(text)
    source = written(tmp_path / "list.txt", "a castle")
    with pytest.raises(InputError, match="is not that of a batch"):
        Batch(source, tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == text


def test_a_list_that_is_called_as_the_manifest_is_not_replaced_by_it(tmp_path):
    source = written(tmp_path / "manifest.jsonl", {"prompt": "a", "file": "a", "key": "b", "status": "c"})
    with pytest.raises(InputError, match="would be replaced by the batch's own manifest"):
        Batch(source, tmp_path, **SMALL)


def test_a_picture_to_begin_with_that_changes_meanwhile_is_not_taken_for_what_it_was(tmp_path):
    Image.new("RGB", (128, 64), "red").save(tmp_path / "begin.png")
    source = written(tmp_path / "list.jsonl", {"prompt": "a hut", "image": "begin.png", "denoise": 0.6})
    batch = Batch(source, tmp_path / "out", steps=1)
    Image.new("RGB", (128, 64), "blue").save(tmp_path / "begin.png")
    (outcome,) = batch.run()
    assert outcome.status == "failed"
    assert "has been changed since the list was read" in outcome.error


def test_a_name_that_is_taken_while_the_picture_is_made_costs_no_picture(tmp_path):
    source = written(tmp_path / "list.jsonl", {"prompt": "a", "name": "a.jpg"}, {"prompt": "b", "name": "b.jpg"})
    batch = Batch(source, tmp_path / "out", **SMALL)

    def somebody(item, done, steps):
        if item.name == "a.jpg":
            (tmp_path / "out" / "a.jpg").write_bytes(b"mine")

    first, second = batch.run(somebody)
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"mine"
    assert (first.status, second.status) == ("failed", "done")
    assert "it is " in first.error
    assert Panorama.open(tmp_path / "out" / "a-2.jpg").settings["prompt"] == "a"


def test_a_picture_that_was_changed_since_is_told(tmp_path, caplog):
    source = written(tmp_path / "list.txt", "a castle")
    (first,) = Batch(source, tmp_path / "out", **SMALL).run()
    first.file.write_bytes(first.file.read_bytes()[:-100])
    assert list(Batch(source, tmp_path / "out", **SMALL).run()) == []
    assert "has been changed since it was made" in caplog.text


def test_a_batch_that_cannot_begin_leaves_no_folder(tmp_path):
    source = written(tmp_path / "list.txt", "a castle")
    with pytest.raises(Dit360Error, match=r"Ray cannot be reached at 127\.0\.0\.1:1 "):
        list(Batch(source, tmp_path / "out", engine="ray", ray_address="127.0.0.1:1", **SMALL).run())
    assert not (tmp_path / "out").exists()


def test_two_batches_do_not_write_into_one_folder(tmp_path):
    source = written(tmp_path / "list.txt", "a castle")
    batch = Batch(source, tmp_path / "out", **SMALL)
    with batch.folder.locked(), pytest.raises(InputError, match="Another batch is writing into"):
        list(Batch(source, tmp_path / "out", **SMALL).run())
    assert [outcome.status for outcome in batch.run()] == ["done"]


def test_what_a_killed_process_left_half_written_is_removed_and_what_is_being_written_is_not(tmp_path):
    out = tmp_path / "out"
    (out / "rooms").mkdir(parents=True)
    old, young = out / "rooms" / ".dit360-0123456789abcdef.part", out / ".dit360-fedcba9876543210.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    with Folder(out).locked():
        assert not old.exists()
        assert young.exists()


# --------------------------------------------------------------------------------------------------- the command line


def test_bad_input_is_one_sentence_before_torch_is_imported(tmp_path):
    written(tmp_path / "list.txt", "a castle")
    written(tmp_path / "bad.jsonl", {"prompt": "a", "steps": 0})
    written(tmp_path / "scheduler.jsonl", {"prompt": "a"}, {"prompt": "b", "scheduler_type": "unipcc"})
    cases = {
        ("list.txt", "-o", "out", "--format", "gif"): "format is 'gif'",
        ("list.txt", "-o", "out", "--engine", "slurm"): "engine is 'slurm', but must be one of: local, ray",
        ("list.txt", "-o", "out", "--workers", "2"): "--workers 2 has no effect with --engine local",
        ("list.txt", "-o", "out", "--engine", "ray", "--workers", "0"): "--workers is 0",
        ("list.txt", "-o", "list.txt"): "Cannot write into list.txt: it is a file",
        ("list.txt", "-o", "no/such/place"): "Cannot make no/such/place",
        ("bad.jsonl", "-o", "out"): "bad.jsonl, line 1: steps is 0",
        ("scheduler.jsonl", "-o", "out"): "line 2: There is no scheduler named 'unipcc'; did you mean unipc",
        ("list.txt", "-o", "out", "--model", "tyni"): "There is no model 'tyni'",
        ("list.txt", "-o", "out", "--width", "250"): "Error: The size width 250 cannot be made",
        ("list.txt", "-o", "out", "--scheduler-type", "unipcc"): "Error: There is no scheduler named 'unipcc'",
        (".", "-o", "out"): "Cannot read .: it is a folder",
        ("list.txt", "-o", "out", "--engine", "ray"): "--engine ray needs Ray, which is not installed; pip install",
    }
    told = dit360(*(["batch", *case] for case in cases), cwd=tmp_path, without=("torch", "ray"))
    for said, sentence in zip(told, cases.values(), strict=True):
        assert said.code == 2, said.err
        assert said.err.startswith("Error: ")
        assert sentence in said.err
        assert "Traceback" not in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "list.txt", "scheduler.jsonl"]


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A list whose second picture asks for a kernel that fails in the middle, made twice."""
    site = install(tmp_path_factory.mktemp("site"), "fails_midway")
    where = tmp_path_factory.mktemp("failing")
    second = {"prompt": "a sea", "attention_backend": "raises-midway", "width": 256, "steps": 2}
    written(where / "list.jsonl", {"prompt": "a castle"}, second, {"prompt": "a hut"})
    command = ["batch", "list.jsonl", "-o", "out", *SMALL_FLAGS]
    return where, dit360([*command, "--dry-run"], command, command, cwd=where, PYTHONPATH=site)


def test_a_picture_that_fails_is_told_and_the_others_are_made(failing):
    where, (_, said, _) = failing
    assert said.code == 1
    assert "line 2, failed: A plugin failed while sampling 256×128: raises-midway" in said.err
    assert "2 of 3 pictures are in out; manifest.jsonl lists them. 1 failed" in said.err
    assert len(list((where / "out").glob("*.jpg"))) == 2
    entries = Folder(where / "out").entries()
    assert sorted(entry["status"] for entry in entries.values()) == ["done", "done", "failed"]
    (failed,) = (entry for entry in entries.values() if entry["status"] == "failed")
    assert "illegal memory access" in failed["error"]


def test_the_same_command_tries_again_what_failed_and_nothing_else(failing):
    _, (dry, _, again) = failing
    assert dry.code == 0
    assert "3 of 3 pictures are to be made" in dry.err
    assert "2 of 3 pictures are there already" in again.err
    assert again.err.count("failed: ") == 1
    assert again.code == 1


_FULL = """
import resource, sys
# As a full disk says it, but of the second picture alone.
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
sys.argv = ["dit360", "batch", "list.jsonl", "-o", "out", "--format", "png", "--steps", "1"]
from dit360_core.cli import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="no limit of a file's size")
def test_a_full_disk_ends_the_run_and_leaves_what_is_finished(tmp_path):
    sizes = (128, 512, 128)
    written(tmp_path / "list.jsonl", *({"prompt": f"castle {n}", "width": w} for n, w in enumerate(sizes)))
    done = python(_FULL, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 2, done.stderr
    assert "Error: Cannot write out/castle-1-" in done.stderr
    assert "see that there is space" in done.stderr
    assert "Traceback" not in done.stderr
    (whole,) = (path for path in (tmp_path / "out").iterdir() if path.suffix in (".png", ".part"))
    assert Panorama.open(whole).settings["prompt"] == "castle 0"
    assert [entry["status"] for entry in Folder(tmp_path / "out").entries().values()] == ["done", "pending", "pending"]


def test_a_picture_that_its_folder_does_not_take_is_kept_elsewhere(tmp_path, monkeypatch):
    written(tmp_path / "list.jsonl", {"prompt": "a castle", "width": 128})

    def full(*given, **how):
        raise Dit360Error("Cannot write out/a.png: No space left on device; see that there is space.")

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(Dit360Error, match=r"No space left .* the picture is not lost, it is ") as told:
        list(
            Batch(
                tmp_path / "list.jsonl", tmp_path / "out", model="tiny", steps=1, format="png", quality=np.int64(90)
            ).run()
        )
    kept = Path(str(told.value).rpartition("it is ")[2].rstrip("."))
    assert Panorama.open(kept).settings["prompt"] == "a castle"
    shutil.rmtree(kept.parent)


# -------------------------------------------------------------------------------------------------------- interruptions

KILLS = int(os.environ.get("DIT360_KILLS", "6"))
PROMPTS = [f"a castle number {n}" for n in range(5)]

# Each batch is a process of its own; they are forked from one that has imported everything, since that takes longer
# than the pictures. The disk is slow, so that a kill often meets a file half written. A process is ended at a file
# drawn at random: every other one while it waits for the disk, which it does until it is ended, the rest soon after.
_KILLED = """
import json, os, random, signal, stat, sys, time
from pathlib import Path
import torch, diffusers, transformers
import dit360_core.pipeline.loading, dit360_core.batching.painting
from dit360_core.cli import main
from dit360_core.models.flux import engine, networks

real = os.fsync

def start(folder, held=0):
    reads, tells = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tells)
        return pid, reads
    files = 0
    def slowly(number):
        nonlocal files
        real(number)
        if stat.S_ISREG(os.fstat(number).st_mode):
            files += 1
            os.write(tells, b".")
        time.sleep(600 if files == held else 0.03)
    os.fsync = slowly
    sys.stderr = sys.stdout = open(os.devnull, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["dit360", "batch", "list.txt", "-o", folder, "--format", "png", "--width", "128", "--steps", "1"]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)

def files(reads, most=10**9):
    count = 0
    while count < most and os.read(reads, 1):
        count += 1
    return count

def ended(pid, reads):
    status = os.waitpid(pid, 0)[1]
    os.close(reads)  # only now, or what it tells of its files would fail
    return status

asked = json.load(sys.stdin)
random.seed(asked["seed"])
from dit360_core.batching import Batch
made = list(Batch("list.txt", "whole", format="png", width=128, steps=1).run())
assert all(outcome.status == "done" for outcome in made)
begun = time.monotonic()
pid, reads = start("again")
total = files(reads)
assert ended(pid, reads) == 0
each = (time.monotonic() - begun) / total
folders, told = ["killed-0"], []
for turn, number in enumerate(asked["signals"]):
    left = asked["pictures"] - len(list(Path(folders[-1]).glob("*.png")))
    if not left:
        folders.append(f"killed-{len(folders)}")
        left = asked["pictures"]
    at, held = random.randint(1, max(1, total * left // asked["pictures"])), turn % 2 == 0
    pid, reads = start(folders[-1], at if held else 0)
    files(reads, at)
    if not held:
        time.sleep(random.uniform(0, each))
    os.kill(pid, number)
    status = ended(pid, reads)
    folder = Path(folders[-1])
    told.append({
        "held": held,
        "code": os.waitstatus_to_exitcode(status),
        "pictures": {path.name: path.read_bytes() == (Path("whole") / path.name).read_bytes()
                     for path in folder.glob("*.png")},
        "parts": len(list(folder.glob(".*.part"))),
    })
codes = [os.waitstatus_to_exitcode(ended(*start(folder))) for folder in folders]
json.dump({"told": told, "folders": folders, "codes": codes}, sys.stdout)
"""


def as_signals(kills, interrupts):
    return [int(signal.SIGKILL)] * kills + [int(signal.SIGINT)] * interrupts


@pytest.fixture(scope="module", params=[(2, 3), pytest.param((KILLS, len(PROMPTS)), marks=pytest.mark.long)])
def interrupted(request, tmp_path_factory):
    """A batch that was killed and interrupted again and again, and what was seen after each time."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    kills, pictures = request.param
    folder = tmp_path_factory.mktemp("interrupted")
    written(folder / "list.txt", *PROMPTS[:pictures])
    asked = {"seed": 20, "signals": as_signals(kills, 2), "pictures": pictures}
    done = python(_KILLED, cwd=folder, given=json.dumps(asked), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return folder, told, (told["told"][:kills], told["told"][kills:])


def test_killed_at_random_moments_whatever_has_its_name_is_whole(interrupted):
    _, _, (killed, _) = interrupted
    assert all(all(each["pictures"].values()) for each in killed)
    held = [each for each in killed if each["held"]]
    assert {each["code"] for each in held} == {-signal.SIGKILL}
    assert all(each["parts"] for each in held), "no kill met a file half written: this proves little"


def test_ctrl_c_leaves_whole_pictures_and_nothing_half_written(interrupted):
    _, _, (killed, stopped) = interrupted
    for each in stopped:
        assert all(each["pictures"].values())
        assert each["parts"] <= killed[-1]["parts"]
    assert {each["code"] for each in stopped if each["held"]} == {130}


def test_run_again_it_goes_on_to_the_pictures_of_an_uninterrupted_run_each_once(interrupted):
    folder, told, _ = interrupted
    assert set(told["codes"]) == {0}
    whole = {path.name: path.read_bytes() for path in (folder / "whole").glob("*.png")}
    assert len(whole) == len((folder / "list.txt").read_text().splitlines())
    for name in told["folders"]:
        assert {path.name: path.read_bytes() for path in (folder / name).glob("*.png")} == whole
        lines = [json.loads(line) for line in (folder / name / "manifest.jsonl").read_text().splitlines()]
        assert [line["file"] for line in lines] == list(Folder(folder / "whole").entries())
        assert {line["status"] for line in lines} == {"done"}


# ------------------------------------------------------------------------------------------------------------------ Ray

_ON_RAY = """
import json, os, re, signal, sys, time
from dit360_core.batching import Batch
batch = Batch("prompts.jsonl", "by-two", format="png", engine="ray", workers=2, width=128, steps=1)
killed, told = None, []
for outcome in batch.run():
    told.append([outcome.file.name, outcome.status, outcome.worker])
    if killed is None:
        killed = outcome.worker
        os.kill(int(re.search(r"[(]([0-9]+)[)]", killed)[1]), signal.SIGKILL)
# Ray itself says things on standard output.
open("told.json", "w").write(json.dumps({"killed": killed, "told": told}))
"""


@pytest.mark.long
def test_on_ray_a_lost_worker_costs_no_picture(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    written(tmp_path / "prompts.jsonl", *({"prompt": prompt} for prompt in PROMPTS))
    done = python(_ON_RAY, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert f"The worker {told['killed']} was lost" in done.stderr
    assert [status for _, status, _ in told["told"]] == ["done"] * len(PROMPTS)
    assert len({name for name, _, _ in told["told"]}) == len(PROMPTS)
    assert len({worker for _, _, worker in told["told"]}) >= 2
    (local,) = dit360(
        ["batch", "prompts.jsonl", "-o", "local", "--format", "png", *SMALL_FLAGS], cwd=tmp_path, OMP_NUM_THREADS="1"
    )
    assert local.code == 0, local.err
    made = {path.name: path.read_bytes() for path in (tmp_path / "by-two").glob("*.png")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "local").glob("*.png")}


def test_ray_that_is_slow_to_start_is_started_again_and_told_in_a_sentence_in_the_end(monkeypatch, caplog):
    """As on a busy machine: Ray gives its first process half a minute, and then raises an error of no kind."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from dit360_core.batching.on_ray import TRIES, OnRay

    late = []

    def init(*address, **options):
        if len(late) < most:
            late.append(address)
            raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr(ray, "init", init)
    most = TRIES - 1
    OnRay(LoadOptions(), saving=Saving(quality=90))._connect()
    assert late == [("local",)] * most
    assert caplog.text.count("it is started again") == most
    most = 2 * TRIES
    with pytest.raises(Dit360Error, match=r"Ray cannot be started on this machine \(.*timed out.*engine=local"):
        OnRay(LoadOptions(), saving=Saving(quality=90))._connect()


@pytest.mark.long
def test_more_workers_than_ray_has_places_for_are_refused_and_do_not_hang(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    written(tmp_path / "list.txt", "a castle")
    (said,) = dit360(
        ["batch", "list.txt", "-o", "out", *SMALL_FLAGS, "--engine", "ray", "--workers", "4096"], cwd=tmp_path
    )
    assert said.code == 2
    assert "4096 workers were asked for, and Ray has" in said.err
