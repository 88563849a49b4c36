"""Kernels of really installed distributions that fail in the middle of a picture, or take the process with them."""

import json

import pytest
from command_line import dit360, install, python
from dit360_core.cli.work import registered

SMALL = ["--width", "256", "--steps", "2", "--seed", "7"]
ATTENTION = "--attention-backend"


@pytest.fixture(scope="module")
def midway(tmp_path_factory):
    site = install(tmp_path_factory.mktemp("site"), "fails_midway")
    folder = tmp_path_factory.mktemp("pictures")
    names = ["raises-midway", "nan-midway", "shape-midway"]
    commands = [["generate", "a castle", *SMALL, ATTENTION, name, "-o", f"{name}.png"] for name in names]
    return folder, dict(zip(names, dit360(*commands, cwd=folder, PYTHONPATH=site), strict=True))


def test_an_exception_at_the_fifth_call_names_the_plugin_and_leaves_no_picture(midway):
    folder, told = midway
    said = told["raises-midway"]
    assert said.code == 2
    assert said.err.startswith(
        "Error: A plugin failed while sampling 256×128: raises-midway (fails-midway 0.10.0) raised RuntimeError: CUDA "
        "error: an illegal memory access was encountered"
    )
    assert list(folder.iterdir()) == []


def test_numbers_that_are_none_at_the_fifth_call_name_the_kernel_and_leave_no_picture(midway):
    folder, told = midway
    said = told["nan-midway"]
    assert said.code == 2
    assert "numbers that are not finite" in said.err
    assert "nan-midway" in said.err
    assert list(folder.iterdir()) == []


def test_a_wrong_shape_at_the_fifth_call_names_the_plugin(midway):
    _, told = midway
    assert told["shape-midway"].code == 2
    assert "shape-midway (fails-midway 0.10.0)" in told["shape-midway"].err


AGAIN = """
import dit360_core
pipe = dit360_core.load("tiny")
options = {"width": 256, "steps": 2, "seed": 7}
before = pipe.sample(pipe.encode("a castle"), **options).tensor
try:
    pipe.sample(pipe.encode("a castle"), attention_backend="raises-midway", **options)
except dit360_core.Dit360Error as error:
    print(type(error.__cause__).__name__)
print(pipe.sample(pipe.encode("a castle"), **options).tensor.equal(before), pipe.plan.attention.used)
"""


def test_the_pipeline_paints_on_as_before_after_a_kernel_failed(tmp_path):
    site = install(tmp_path / "site", "fails_midway")
    assert python(AGAIN, cwd=tmp_path, PYTHONPATH=site).stdout.split() == ["RuntimeError", "True", "sdpa"]


@pytest.fixture(scope="module")
def crashing(tmp_path_factory):
    site = install(tmp_path_factory.mktemp("site"), "crashes")
    folder = tmp_path_factory.mktemp("pictures")
    commands = {
        "probe": ["backends", "--probe", "--json"],
        "doctor": ["doctor", "--json"],
    }
    return dict(zip(commands, dit360(*commands.values(), cwd=folder, PYTHONPATH=site), strict=True))


@pytest.mark.long
def test_a_kernel_that_ends_the_process_is_told_and_the_others_are_tried_all_the_same(crashing):
    assert crashing["probe"].code == 0, crashing["probe"].err
    offers = {o["name"]: o for o in crashing["probe"].json["offers"] if o["distribution"] == "crashes"}
    reasons = {name: [r["sentence"] for r in offer["reasons"]] for name, offer in offers.items()}
    assert reasons == {
        "segfaults": ["a trial run ended the process (SIGSEGV)"],
        "survives": [],
        "leaves": ["a trial run ended the process (exit code 3)"],
        "survives-too": [],
    }
    assert {offer["reasons"][0]["code"] for offer in offers.values() if offer["reasons"]} == {"probe_failed"}


HANGING = """
import json, sys
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.planning.trial import try_apart

need = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=64)
verdicts = try_apart(["hangs:shouts", "hangs:hangs", "hangs:works"], need, patience=5)
json.dump({name: [reason.sentence for reason in verdict.reasons] for name, verdict in verdicts.items()}, sys.stdout)
"""


@pytest.mark.long
def test_a_kernel_that_never_returns_is_given_up_and_one_that_says_too_much_is_heard_out(tmp_path):
    site = install(tmp_path / "site", "hangs")
    assert json.loads(python(HANGING, cwd=tmp_path, fresh=True, PYTHONPATH=site).stdout) == {
        "hangs:shouts": [],
        "hangs:hangs": ["a trial run did not return within 5 s"],
        "hangs:works": [],
    }


TRY = """
import json, sys
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.planning.trial import try_apart

device, *folders = {asked}
sys.path.extend(folders)
need = AttentionNeed(device=device, dtype="fp32", heads=2, head_dim=16, length=64)
verdicts = try_apart(["dit360-core:sdpa", "dit360-core:eager"], need)
json.dump({{name: [reason.sentence for reason in verdict.reasons] for name, verdict in verdicts.items()}}, sys.stdout)
"""


def test_a_process_that_ends_before_it_tries_anything_blames_all_alike_and_is_not_started_for_each(tmp_path):
    (tmp_path / "began").mkdir()
    begins = f"import os, tempfile; tempfile.mkstemp(dir={str(tmp_path / 'began')!r}); os._exit(7)"
    (tmp_path / "sitecustomize.py").write_text(begins)
    told = json.loads(python(TRY.format(asked=["cpu", str(tmp_path)]), cwd=tmp_path / "began", fresh=True).stdout)
    assert told["dit360-core:sdpa"] == ["a trial run ended the process (exit code 7)"]
    assert told["dit360-core:eager"] == told["dit360-core:sdpa"]
    assert len(list((tmp_path / "began").iterdir())) == 1


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory):
    """What is told of kernels on a device that is not there, in a folder with something of a library's name."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("json.py", "torch.py"):
        (folder / name).write_text(f"raise SystemExit('this is not {name}')")
    code = "import sys; sys.path.remove('')" + TRY.format(asked=["nowhere"])
    return json.loads(python(code, cwd=folder, fresh=True).stdout)


def test_a_device_that_pytorch_does_not_see_is_told_of_all_that_would_be_tried(nowhere):
    (why,) = nowhere["dit360-core:sdpa"]
    assert why.startswith("The device 'nowhere' is not available here: PyTorch ")
    assert nowhere["dit360-core:eager"] == [why]


def test_what_lies_in_the_folder_one_is_in_is_not_tried(nowhere):
    """A clone of a library has its name and is not what is installed."""
    assert not any("is not json.py" in why or "is not torch.py" in why for whys in nowhere.values() for why in whys)
    assert all("it sees: cpu" in why for whys in nowhere.values() for why in whys)


@pytest.mark.long
def test_the_doctor_names_what_is_broken_and_ends_with_one(crashing):
    assert crashing["doctor"].code == 1
    report = crashing["doctor"].json
    assert report["attention"]["crashes:survives"] == "works"
    told = [line.partition("; ")[0] for line in report["advice"] if "crashes:" in line]
    assert told == [
        "The attention backend crashes:segfaults is broken: a trial run ended the process (SIGSEGV)",
        "The attention backend crashes:leaves is broken: a trial run ended the process (exit code 3)",
    ]
    assert all("DIT360_DISABLED_PLUGINS=crashes" in line for line in report["advice"] if "crashes:" in line)


@pytest.mark.long
def test_probing_tells_error_and_speed_of_every_kernel_that_runs(crashing):
    report = crashing["probe"].json
    assert [report["probed"][key] for key in ("heads", "head_dim", "length")] == [24, 128, 8832]
    for offer in report["offers"]:
        if offer["kind"] != "attention":
            assert "probe" not in offer
        elif offer["available"]:
            probe = offer["probe"]
            assert 0 <= probe["error"] <= probe["allowed"] < 0.05
            assert probe["seconds"] > 0
            assert probe["of_sdpa"] > 0
        else:
            assert set(offer["probe"].values()) == {None}


@pytest.mark.long
def test_the_table_of_trials_has_a_row_for_every_attention_backend_and_no_other(crashing, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    registered.show(crashing["probe"].json)
    out = capsys.readouterr().out
    lines = out.splitlines()
    for name in ("sdpa ", "eager", "segfaults", "flash-3", "xformers"):
        assert any(line.startswith(name) for line in lines), name
    assert not any(line.startswith("flow_match") for line in lines)
    assert "SIGSEGV" in out
    assert "24 heads of 128 channels, 8832 keys" in out
