"""Configurations are compared in processes of their own, in turn; what fails is told and the others go on."""

import contextlib
import inspect
import json
import re
import shutil
import sys

import pytest
import typer
from dit360_core.cli import bench
from dit360_core.cli.benching import comparing as benching
from dit360_core.cli.benching.varying import Configuration, configurations, parse
from dit360_core.errors import InputError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.plugins.registry import default_registry
from typer.testing import CliRunner

SMALL = ["--width", "64", "--steps", "2", "--rounds", "2"]


@pytest.fixture(scope="module")
def app():
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command("bench")(bench.command())
    return made


def baseline(**loading):
    return Configuration(
        loading=LoadOptions(strict=True, **loading),
        sampling=SampleOptions(prompt="a castle", width=64, steps=2, seed=1),
        decoding=DecodeOptions(),
    )


def compared(*vary, **loading):
    return configurations(baseline(**loading), vary, default_registry())


# ---------------------------------------------------------------------------------------------------- what is asked


def test_the_baselines_own_value_among_several_is_told_and_measured_once(caplog):
    found = compared("offload=none,group", "steps=1,2,3")
    assert [one.name for one in found] == ["baseline", "offload=group", "steps=1", "steps=3"]
    assert [record.message for record in caplog.records] == [
        "offload=none is the baseline, which is measured once.",
        "steps=2 is the baseline, which is measured once.",
    ]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("attention_backend=sdpa,eager", [{"attention_backend": "sdpa"}, {"attention_backend": "eager"}]),
        ("--attention-backend=sdpa", [{"attention_backend": "sdpa"}]),
        ("steps=1, 3", [{"steps": 1}, {"steps": 3}]),
        ("steps=", [{"steps": None}]),
        ("guidance=2.5,", [{"guidance": 2.5}, {"guidance": None}]),
        ("latent_rotation=yes,OFF", [{"latent_rotation": True}, {"latent_rotation": False}]),
        ("prompt=a lake, at dawn", [{"prompt": "a lake, at dawn"}]),
        ("lora=a+b.safetensors", [{"lora": ("a+b.safetensors",)}]),
        ("quantization_skip=", [{"quantization_skip": ""}]),
        (
            "quantization_mode=int8+quantization_skip=norm,proj_out",
            [{"quantization_mode": "int8", "quantization_skip": "norm,proj_out"}],
        ),
    ],
)
def test_a_variation_is_read_by_the_types_of_the_options(asked, meant):
    assert list(parse(asked)) == meant


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        (["eager"], r"'eager' is no variation; write NAME=VALUE, such as 'attention_backend=sdpa,eager'\."),
        (["=1"], "'=1' is no variation; write NAME=VALUE"),
        (["atention_backend=sdpa"], "There is no option 'atention_backend' to vary; did you mean attention_backend"),
        (["xyzzy=1"], "There is no option 'xyzzy' to vary; 'dit360 generate --help'"),
        (["steps=many"], r"steps must be a whole number, not 'many'\."),
        (["steps=1.5"], r"steps must be a whole number, not '1\.5'\."),
        (["guidance=much"], r"guidance must be a number, not 'much'\."),
        (["latent_rotation=perhaps"], r"latent_rotation must be true or false, not 'perhaps'\."),
        (["attention_backend=sdpa,"], r"attention_backend is given no value; write attention_backend=VALUE\."),
        (["vae_tile_size="], r"vae_tile_size must be a whole number, not ''\."),
        (["steps=1+steps=3"], r"steps is given twice in 'steps=1\+steps=3'; leave one out\."),
        (["steps=3", "steps=1,3"], r"steps=3 is given twice; leave one out\."),
        (["steps=2"], r"steps=2 is what the baseline has already; vary steps with another value\."),
        (["strict=true"], "strict=true is what the baseline has already"),
        (["lora="], "lora= is what the baseline has already"),
        (["precision=fp32+steps=2"], "steps=2 is what the baseline has already"),
        (["steps=0"], "steps is 0, but must be 1 … 1000"),
        (["precision=fp8"], "precision is 'fp8', but must be one of: auto, fp32, bf16, fp16"),
        (["width=100"], r"width 100 cannot be made.*take 96×48\."),
        (["attention_backend=spda"], "'spda'.*sdpa"),
        (["quantization_mode=int9"], "'int9'.*int8"),
        (["tiling_backend=exakt"], "'exakt'"),
        (["scheduler_type=hoin"], "'hoin'"),
        (["model=tiniest"], "'tiniest'.*tiny"),
        (["denoise=0.5"], "denoise=0.5 keeps a part of a picture, and none is given"),
        (["negative_prompt=rain"], "negative_prompt has no effect while true_guidance is 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(vary, sentence):
    with pytest.raises(InputError, match=sentence):
        compared(*vary)


def test_each_configuration_differs_from_the_baseline_in_what_was_asked():
    found = compared("attention_backend=sdpa,eager", "steps=3+tiling_mode=never")
    assert [one.name for one in found] == [
        "baseline",
        "attention_backend=sdpa",
        "attention_backend=eager",
        "steps=3+tiling_mode=never",
    ]
    base, _, eager, both = found
    assert eager.loading.attention_backend == "eager"
    # What a picture may override stays with what is loaded.
    assert eager.sampling == base.sampling == baseline().sampling
    assert (both.sampling.steps, both.decoding.tiling_mode, both.loading) == (3, "never", base.loading)
    assert both.settings()["sampling"]["steps"] == 3


def test_a_wrong_variation_ends_the_command_before_anything_is_measured(app, monkeypatch, tmp_path):
    monkeypatch.setattr(benching, "measure", lambda *_, **__: pytest.fail("measured"))
    for arguments in (["--vary", "steps=2"], ["--steps", "0"], ["-o", str(tmp_path / "no" / "b.json")]):
        told = CliRunner().invoke(app, [*SMALL, *arguments])
        assert told.exit_code == 2, told.output
        assert re.match(r"Error: .*\.\s*$", told.stderr, re.DOTALL)
        assert not told.stdout


def test_every_option_is_a_flag():
    flags = set(inspect.signature(bench.command()).parameters)
    fields = {f.name for cls in (LoadOptions, SampleOptions, DecodeOptions) for f in cls.__attrs_attrs__}
    # There is no picture to begin with, and a kernel that falls back is never what was to be measured.
    assert fields - flags == {"denoise", "strict"}


# ------------------------------------------------------------------------------------------------ what is made of it


def test_every_configuration_is_first_last_and_between_equally_often():
    orders = [tuple(benching.in_turn("abc", i)) for i in range(6)]
    assert orders[:3] == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    assert sorted(orders) == sorted({tuple(o) for o in orders})
    assert not list(benching.in_turn("", 1))


def run(number, seconds):
    return {"round": number, **dict.fromkeys(benching.STAGES, seconds), "cpu": 0.5, "gpu": None}


def test_ratios_are_of_the_same_round():
    # The machine becomes ten times as slow, and the second configuration stays twice as slow as the first.
    base = [run(0, 1.0), run(1, 10.0), run(2, 100.0)]
    mine = [run(0, 2.0), run(2, 220.0)]
    assert benching.ratios(mine, base, apart=False)["step"] == pytest.approx(
        {"median": 2.1, "quartiles": pytest.approx([2.05, 2.15])}
    )
    assert benching.ratios(mine, base, apart=True)["step"] == {"median": 11.1, "quartiles": None}
    assert benching.ratios(mine[:1], base, apart=False)["whole"] == {"median": 2.0, "quartiles": [2.0, 2.0]}
    assert benching.ratios([], base, apart=False) == benching.ratios(mine, [], apart=True) == {}
    assert benching.medians(base) == {**dict.fromkeys(benching.STAGES, 10.0), "cpu": 0.5}


def test_a_step_is_the_median_without_the_first():
    assert benching.step_of([9.0, 1.0, 2.0, 4.0]) == 2.0
    assert benching.step_of([9.0]) == 9.0
    assert benching.step_of([]) is None


# ------------------------------------------------------------------------------------------------------- for real


@pytest.fixture(scope="module")
def told(app, tmp_path_factory):
    """Three configurations of the embedded model, one of which cannot run on a CPU."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    vary = ["--vary", "attention_backend=sdpa-efficient", "--vary", "quantization_mode=int8"]
    answer = CliRunner().invoke(app, [*SMALL, "--device", "cpu", *vary, "-o", str(file)], env={"COLUMNS": "160"})
    return answer, json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.long
def test_a_configuration_that_fails_is_told_and_the_others_go_on(told):
    answer, report = told
    assert answer.exit_code == 0, answer.output
    base, failed, int8 = report["configurations"]
    assert re.search("sdpa-efficient.*CUDA", failed["failed"])
    assert failed["failed"] in answer.stdout.replace("\n", " ")
    assert (failed["runs"], failed["ratios"], failed["memory"]) == ([], {}, None)
    assert base["failed"] is int8["failed"] is None
    assert len(base["runs"]) == len(int8["runs"]) == 2


@pytest.mark.long
def test_the_file_holds_every_number(told):
    _, report = told
    base, _, int8 = report["configurations"]
    assert report["format"] == 1
    assert report["environment"]["machine"]["device"] == "cpu"
    assert report["environment"]["machine"]["versions"]["torch"]
    assert report["environment"]["threads"] >= 1
    assert report["settings"]["rounds"] == 2
    assert report["settings"]["baseline"]["sampling"]["seed"] == 1
    assert int8["settings"]["loading"]["quantization_mode"] == int8["used"]["quantization"]["used"] == "int8"
    assert int8["changed"] == {"quantization_mode": "int8"}
    for one in (base, int8):
        assert one["loading_s"] > 0
        resident = one["memory"]["resident"]
        assert 0 < resident["before"] < resident["end"] <= resident["peak"]
        assert one["memory"]["cuda"] is None
        for made in one["runs"]:
            assert len(made["steps"]) == 2
            assert made["step"] == made["steps"][1]
            assert made["encode"] + made["sampling"] + made["decode"] == pytest.approx(made["whole"])
            assert sum(made["steps"]) <= made["sampling"]
            assert made["cpu"] > 0
            assert made["gpu"] is None
    assert base["ratios"] == {}
    assert base["picture"] is None
    low, high = int8["ratios"]["step"]["quartiles"]
    assert 0 < low <= int8["ratios"]["step"]["median"] <= high
    # It is the same picture but for rounding.
    assert not int8["picture"]["same"]
    assert int8["picture"]["psnr"] > 20


@pytest.mark.long
def test_the_table_shows_it(told):
    answer, _ = told
    header, *rows = answer.stdout.splitlines()
    assert re.split(" {2,}", header) == [
        "configuration",
        "step",
        "ratio",
        "whole picture",
        "ratio",
        "peak memory",
        "picture",
    ]
    assert re.match(r"baseline +\S+ s +1 +\S+ s +1 +\d+ MiB *$", rows[0])
    assert re.match(r"attention_backend=sdpa-efficient +failed *$", rows[1])
    assert re.match(
        r"quantization_mode=int8 +\S+ s +\S+ \(\S+ … \S+\) +\S+ s +\d\.\d{3} +\d+ MiB +\d+\.\d dB *$", rows[2]
    )


def test_alone_it_fails_and_so_does_the_command(app, monkeypatch):
    # A process that ends before it has said anything.
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    told = CliRunner().invoke(app, [*SMALL, "--apart", "--vary", "steps=1"], env={"COLUMNS": "160"})
    assert told.exit_code == 1, told.output
    assert "baseline failed: Its process ended with the code 1." in told.stdout
    assert "steps=1 failed" in told.stdout
    assert "the ratios are of medians" in told.stdout


def test_what_libraries_print_and_read_is_not_part_of_the_protocol(tmp_path, monkeypatch):
    """A worker whose torch prints, asks, and has the process killed."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, sys\n"
        "print('hello')\n"
        "os.write(1, b'from a library in C\\n')\n"
        "assert not sys.stdin.read()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = benching.Worker(baseline(), tmp_path)
    with (
        contextlib.closing(worker),
        pytest.raises(benching.Failed, match="ended by the signal SIGKILL; the system does that where memory"),
    ):
        worker.ask("describe", device="cpu")
    assert (tmp_path / "stderr").read_text() == "hello\nfrom a library in C\n"
