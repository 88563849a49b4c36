"""What is wrong with a list is told before its first picture, and by --dry-run as by the run itself."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from command_line import dit360, environment
from dit360_core.batching import Batch
from dit360_core.batching import painting as painting_of
from dit360_core.batching.in_process import InProcess
from dit360_core.batching.on_ray import Worker
from dit360_core.batching.telling import as_columns
from dit360_core.errors import InputError, named, plain, setting
from dit360_core.options import LoadOptions
from dit360_core.system.progress import DOWNLOADING, underway
from PIL import Image

SMALL = {"width": 128, "steps": 1}


def written(path, *lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


# ------------------------------------------------------------------------------------------------------ the dry run

LISTS = {
    "lora": [{"prompt": "x", "lora": "nope.safetensors"}],
    "negative": [{"prompt": "x", "negative_prompt": "y"}],
    "holds": [{"prompt": "x", "width": 16384, "name": "x.webp"}],
    "larger": [{"prompt": "x", "upscale": 256}],
    "widest": [{"prompt": "x", "width": 128}, {"prompt": "x", "negative_prompt": "y", "width": 256}],
    "steps": [{"prompt": "x", "steps": True}],
    "plain": [{"prompt": "x"}, {"prompt": "y"}],
}
HAS_NO_EFFECT = "has no effect while {0}true{1}guidance is 1; set {0}true{1}guidance above 1"
CASES = {
    ("lora",): "lora.jsonl, line 1: There is no LoRA nope.safetensors",
    ("negative",): f"negative.jsonl, line 1: negative_prompt {HAS_NO_EFFECT.format('', '_')}",
    ("holds",): "holds.jsonl, line 1: WEBP holds at most 16383 pixels a side, but the picture is 16384 wide",
    ("larger",): "larger.jsonl, line 1: upscale is 256, and the picture is 512 wide already",
    # The picture that memory is planned for.
    ("widest",): f"widest.jsonl, line 2: negative_prompt {HAS_NO_EFFECT.format('', '_')}",
    # An option that is typed is called by its flag, but not where the line says it itself.
    ("steps", "--steps", "2"): "steps.jsonl, line 1: steps must be a whole number, not True",
    # What was typed for all of them is no line's fault.
    ("plain", "--negative-prompt", "y"): f"Error: --negative-prompt {HAS_NO_EFFECT.format('--', '-')}",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What each of these said, without being run and run."""
    desk = tmp_path_factory.mktemp("checked")
    for name, lines in LISTS.items():
        written(desk / f"{name}.jsonl", *lines)
    commands = [["batch", f"{name}.jsonl", "-o", "out", *more] for name, *more in CASES]
    told = dit360(
        *([*command, *dry] for command in commands for dry in (["--dry-run"], [])),
        ["batch", "plain.jsonl", "-o", "part", "--shard", "5/8"],
        ["batch", "plain.jsonl", "-o", "part", "--shard", "5/8", "--dry-run"],
        cwd=desk,
    )
    return desk, told


def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(checked):
    desk, told = checked
    for (case, sentence), dry, run in zip(CASES.items(), told[0:-2:2], told[1:-2:2], strict=True):
        assert (dry.code, run.code) == (2, 2), (case, dry.err)
        assert sentence in dry.err, case
        assert "to be made" not in dry.err
        assert dry.err == run.err
    assert not (desk / "out").exists()


def test_a_part_of_a_list_that_is_empty_is_called_so_and_makes_nothing(checked):
    desk, told = checked
    assert [(one.code, one.err.strip()) for one in told[-2:]] == [(0, "Part 5 of 8 of this list is empty.")] * 2
    assert not (desk / "part").exists()
    assert list(Batch(desk / "plain.jsonl", desk / "part", shard="3/8", **SMALL).run()) == []
    assert not (desk / "part").exists()


def test_a_check_reads_no_weights_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(InProcess, "load", lambda self: pytest.fail("weights are read"))
    Batch(written(tmp_path / "a.jsonl", {"prompt": "x"}), tmp_path / "out", **SMALL).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


_FAR = """
from dit360_core.batching import painting
from dit360_core.system.progress import underway
def prepare(*given, **how):
    with underway("Downloading owner/model", 20 * 2**30):
        raise SystemExit("it is downloaded")
painting.prepare = prepare
"""


def test_a_dry_run_downloads_no_weights_and_says_what_it_could_not_check(tmp_path):
    written(tmp_path / "a.jsonl", {"prompt": "x"})
    (told,) = dit360(["batch", "a.jsonl", "-o", "out", "--dry-run"], cwd=tmp_path, before=_FAR)
    assert told.code == 0, told.err
    assert "not checked with the model yet: a run downloads owner/model (20.0 GiB) first, then checks them" in told.err
    assert "1 of 1 picture is to be made" in told.err


def test_a_picture_is_blamed_without_downloading_a_model_for_it(tmp_path, monkeypatch):
    """Of a model that is not here, the widest picture is looked at before the download, and none begins."""

    def prepare(*given, picture=None, **how):
        if picture is not None:
            raise InputError("The picture is wrong.")
        with underway(f"{DOWNLOADING} owner/model", 2**40):
            pytest.fail("it is downloaded")

    monkeypatch.setattr(painting_of, "prepare", prepare)
    lines = [{"prompt": "x", "width": 128}, {"prompt": "y", "width": 256}]
    batch = Batch(written(tmp_path / "a.jsonl", *lines), tmp_path / "out", steps=1)
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: The picture is wrong\."):
        batch.check()
    # A worker that takes another's place says it too, instead of planning for another picture.
    assert Worker().start(LoadOptions(), batch.missing[1], {}) == "The picture is wrong."


def test_what_is_wrong_with_the_model_is_no_lines_fault(tmp_path):
    source = written(tmp_path / "a.jsonl", {"prompt": "x"})
    with pytest.raises(InputError, match=r"^offload=model moves parts between an accelerator"):
        Batch(source, tmp_path / "out", offload="model", device="cpu", **SMALL).check()


def test_an_option_that_a_line_says_is_a_column_and_others_stay_options():
    said = f"{named('steps')}, {setting('steps', 3)}, {named('seed')}, {named('true_guidance')}"
    told = as_columns(said, {"steps", "guidance"})
    assert plain(told) == plain(said)
    assert InputError(told).options == ("seed", "true_guidance")
    assert as_columns(said, ()) == said


# --------------------------------------------------------------------------------------------- what is there already


@pytest.fixture
def lake(tmp_path):
    """A folder with a picture to begin with, a mask and a list that makes pictures of them."""
    Image.new("RGB", (128, 64), "teal").save(tmp_path / "lake.jpg")
    Image.new("L", (128, 64), 255).save(tmp_path / "mask.png")
    return tmp_path


BEGUN = {"prompt": "x", "image": "lake.jpg", "denoise": 0.5}


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([BEGUN | {"name": "lake.jpg"}, BEGUN | {"name": "two.jpg"}],
         "line 1: it would replace .*lake.jpg, which lines 1 and 2 are made from; give it another name"),
        ([BEGUN | {"name": "two.jpg"}, {"prompt": "x", "name": "lake.jpg"}],
         "line 2: it would replace .*lake.jpg, which line 1 is made from"),
        ([{"prompt": "x", "image": "lake.jpg", "mask": "mask.png"}, {"prompt": "y", "name": "mask.png"}],
         "line 2: it would replace .*mask.png, which line 1 is made from"),
        ([{"prompt": "x", "photo": "lake.jpg;fov=60"}, {"prompt": "y", "name": "lake.jpg"}],
         "line 2: it would replace .*lake.jpg, which line 1 is made from"),
        ([{"prompt": "x", "name": "lake.jpg"}, *(BEGUN | {"name": f"{n}.jpg"} for n in range(8))],
         "line 1: it would replace .*lake.jpg, which lines 2, 3, 4, 5, 6 and 3 more are made from"),
    ],
)  # fmt: skip
def test_what_pictures_are_made_from_is_never_replaced_by_one(lake, lines, said, force):
    before = {path: path.read_bytes() for path in lake.iterdir()}
    with pytest.raises(InputError, match=said):
        Batch(written(lake / "a.jsonl", *lines), lake, force=force, steps=1)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_nor_by_another_name_of_the_folder_or_by_another_part_of_the_list(lake):
    (lake / "link").symlink_to(lake, target_is_directory=True)
    source = written(lake / "a.jsonl", {"prompt": "x", "name": "lake.jpg"}, BEGUN | {"name": "two.jpg"})
    with pytest.raises(InputError, match=r"line 1: it would replace .*lake\.jpg, which line 2 is made from"):
        Batch(source, lake / "link", force=True, shard="1/2", **SMALL)


def test_a_finished_picture_may_be_what_a_later_line_begins_with(tmp_path):
    first = {"prompt": "a castle", "name": "one.png", **SMALL}
    (made,) = Batch(written(tmp_path / "a.jsonl", first), tmp_path).run()
    before = made.file.read_bytes()
    written(tmp_path / "a.jsonl", first, {"prompt": "x", "image": "one.png", "denoise": 0.5, "steps": 1, "name": "b"})
    (second,) = Batch(tmp_path / "a.jsonl", tmp_path, force=True).run()
    assert (second.status, second.line) == ("done", 2)
    assert made.file.read_bytes() == before


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"precision": "bf16"}, "was made with precision=fp32, and precision=bf16 is asked for now"),
        ({"quantization_mode": "int8"}, "was made with quantization_mode=none, and quantization_mode=int8 is asked"),
    ],
)
def test_another_precision_or_quantization_is_refused_though_all_pictures_are_there(tmp_path, named, said):
    source = written(tmp_path / "a.jsonl", {"prompt": "a castle"})
    (made,) = Batch(source, tmp_path / "out", precision="fp32", **SMALL).run()
    assert not Batch(source, tmp_path / "out", **dict.fromkeys(named, "auto"), **SMALL).missing
    with pytest.raises(InputError, match=said):
        Batch(source, tmp_path / "out", **named, **SMALL)
    # Said again what they are, they are what is asked for.
    assert not Batch(source, tmp_path / "out", precision="fp32", quantization_mode="none", **SMALL).missing
    made.file.unlink()
    assert Batch(source, tmp_path / "out", **named, **SMALL).missing


# --------------------------------------------------------------------------------------- rights and names

# Batches of these lists into these folders, as --dry-run checks them; what each says. The model is not needed for it.
_CHECKED = """
import json, sys, traceback
from dit360_core.batching import Batch
from dit360_core.errors import Dit360Error
told = []
for source, folder in json.load(sys.stdin):
    try:
        Batch(source, folder, width=64, steps=1).check()
        told.append("")
    except Dit360Error as error:
        told.append(str(error))
    except Exception:
        told.append(traceback.format_exc())
print(json.dumps(told))
"""
_DENIED = {
    ("list.txt", "shut/new"): "Cannot write into shut/new: no permission to look into shut; choose another folder.",
    ("list.txt", "shut/new/deep"): "Cannot make shut/new/deep: no permission to look into shut; choose another folder.",
    ("list.txt", "shut"): "Cannot write into shut: no permission to look into shut; choose another folder.",
    ("list.txt", "shut/made"): "Cannot write into shut/made: no permission to look into shut; choose another folder.",
    ("list.txt", "fixed/new"): "Cannot write into fixed/new: no permission to write in fixed; choose another folder.",
    ("list.txt", "fixed"): "Cannot write into fixed: no permission to write in fixed; choose another folder.",
    ("rooms.jsonl", "open"): "Cannot write into open: no permission to write in open/rooms; choose another folder.",
    ("shut/list.txt", "open"): "Cannot read shut/list.txt: Permission denied; check the name.",
    ("lora.jsonl", "open"): "lora.jsonl, line 1: secret.safetensors cannot be read (Permission denied); check the name "
    "and its permissions.",
    ("list.txt", "n" * 300): f"Cannot write {'n' * 300}: File name too long; choose another name.",
    ("list.txt", "n" * 300 + "/new"): f"Cannot write {'n' * 300}/new: File name too long; choose another name.",
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_folders_and_files_without_the_right_to_them_are_one_sentence_before_the_start(tmp_path):
    desk = tmp_path
    (desk / "list.txt").write_text("a castle\n")
    prefix = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and setpriv is not there to take that right away")
        rights = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    for folder in ("shut/made", "fixed", "open/rooms"):
        (desk / folder).mkdir(parents=True)
    (desk / "rooms.jsonl").write_text(json.dumps({"prompt": "a", "name": "rooms/a.png"}))
    (desk / "lora.jsonl").write_text(json.dumps({"prompt": "a", "lora": "secret.safetensors"}))
    (desk / "secret.safetensors").write_bytes(b"secret")
    for name, mode in {"shut": 0, "fixed": 0o555, "open/rooms": 0o555, "secret.safetensors": 0}.items():
        (desk / name).chmod(mode)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _CHECKED], input=json.dumps(list(_DENIED)), capture_output=True, text=True,
        cwd=desk, env=environment(), check=False, timeout=600,
    )  # fmt: skip
    for name in ("shut", "fixed", "open/rooms"):
        (desk / name).chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(_DENIED.values())
    assert [path.name for path in (desk / "fixed").iterdir()] == []
