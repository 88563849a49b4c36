"""Plugins that are really installed and fail when they are used: one sentence, no picture, nothing held."""

import json

import pytest
from command_line import PLUGINS, dit360, install, python

TESTS = PLUGINS.parent
SMALL = ["--width", "128", "--steps", "2", "--seed", "7"]
MIB = 2**20


SAMPLING = "A plugin failed while sampling 128×64: {} (fails-in-use 0.13.0) raised "
AUTOENCODER = "A plugin failed while running the autoencoder: {} (fails-in-use 0.13.0) raised "
FAULTS = {
    # what fails: what is said of it
    "attention exits-midway": SAMPLING + "SystemExit; choose another, or tell its author.",
    "attention unprintable-midway": SAMPLING + "Unprintable; choose another, or tell its author.",
    "attention panics-midway": SAMPLING + "Panic: called `Option::unwrap()` on a `None` value; choose another",
    "scheduler step-closes": SAMPLING + "GeneratorExit; choose another, or tell its author.",
    "scheduler step-raises": SAMPLING + "ImportError: libsolver.so: undefined symbol: _ZN3c10; choose another",
    "scheduler step-exits": SAMPLING + "SystemExit: 0; choose another",
    "scheduler step-none": SAMPLING + "AttributeError: 'NoneType' object has no attribute",
    "scheduler step-halves": SAMPLING + "RuntimeError: ",
    "scheduler sigmas-raise": SAMPLING + "LookupError: no levels for so many tokens; choose another",
    "scheduler step-nan": "Sampling produced numbers that are not finite ({} (fails-in-use 0.13.0), ",
    "decode third-tile-raises": AUTOENCODER + "RuntimeError: CUDA error: an illegal memory access; choose another",
    "decode third-tile-exits": AUTOENCODER + "SystemExit; choose another",
    "decode tiles-none": AUTOENCODER + "AttributeError: 'NoneType' object has no attribute",
    "decode tiles-halves": "The tiling {!r} returned (1, 3, 64, 64); choose another.",
    "decode tiles-nan": "The autoencoder produced numbers that are not finite with the tiling {} (fails-in-use 0.13.0)",
    "encode third-tile-raises": AUTOENCODER + "RuntimeError: CUDA error: an illegal memory access; choose another",
    "encode tiles-halves": "The tiling {!r} returned (1, 32, 8, 8); choose another.",
    "encode tiles-nan": "The autoencoder produced numbers that are not finite with the tiling {} (fails-in-use 0.13.0)",
    "quantization layer-raises": SAMPLING + "ValueError: rows of this length are not for me; choose another",
    "quantization layer-nan": "Sampling produced numbers that are not finite (flow_match, sdpa, {} (fails-in-use 0.13",
}
PASSED_ON = {"attention interrupts-midway": "KeyboardInterrupt", "scheduler step-is-terminated": "SystemExit"}

IN_USE = """
import gc, json, signal, sys, traceback
import torch
import dit360_core
from bench.soak import live_bytes
from random_models import random_conditioning, random_flux

torch.set_num_threads(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
options = {"width": 128, "steps": 2, "seed": 7}

def let_go_of_the_plugins_own(error):
    # Its author may look at them; whatever else is held is ours.
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals["__name__"] == "fails_in_use":
                frame.clear()
        error = error.__cause__ or error.__context__

def quantized(name):
    return dit360_core.Pipeline.from_diffusers(random_flux(), quantization_mode=name, quantization_parts="transformer")

of_layers = {name: quantized(name) for name in ("layer-raises", "layer-nan")}
gc.collect()
gc.freeze()  # a collection need not look at what libraries are made of
pipe = dit360_core.load("tiny", device="cpu", offload="disk")
words = pipe.encode("a castle")
before = pipe.sample(words, **options)
picture = pipe.decode(before)
pipe.encode_image(picture)

ways = {
    "attention": lambda name: pipe.generate("a castle", attention_backend=name, **options),
    "scheduler": lambda name: pipe.generate("a castle", scheduler_type=name, **options),
    "decode": lambda name: pipe.generate("a castle", tiling_backend=name, **options),
    "encode": lambda name: pipe.generate("a castle", image=picture, denoise=0.5, tiling_backend=name, **options),
    "quantization": lambda name: of_layers[name].sample(random_conditioning(), **options),
}
kept, told = [], {}
for fault in json.load(sys.stdin):
    kind, _, name = fault.partition(" ")
    held = live_bytes()
    try:
        ways[kind](name)
        said = ["nothing", ""]
    except BaseException as error:
        kept.append(error)  # as an interactive shell does
        said = [type(error).__name__, "" if isinstance(error, (KeyboardInterrupt, SystemExit)) else str(error)]
    let_go_of_the_plugins_own(kept[-1] if kept else None)
    more = live_bytes() - held
    same = pipe.sample(words, **options).tensor.equal(before.tensor) and pipe.plan.attention.used == "sdpa"
    told[fault] = {"error": said, "more": more, "same": same}
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("site"), "fails_in_use")


@pytest.fixture(scope="module")
def told(site, tmp_path_factory):
    """Every fault in one process with one pipeline: the errors, which are all kept, and what came of them."""
    paths = ":".join(map(str, (site, TESTS, TESTS.parent)))
    asked = json.dumps([*FAULTS, *PASSED_ON])
    done = python(IN_USE, cwd=tmp_path_factory.mktemp("empty"), given=asked, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plugin_that_fails_in_use_is_one_sentence_that_names_it(told, fault):
    kind, said = told[fault]["error"]
    assert kind == "Dit360Error"
    assert said.startswith(FAULTS[fault].format(fault.split()[1]))
    assert "\n" not in said


@pytest.mark.parametrize("fault", PASSED_ON)
def test_who_interrupts_or_ends_the_program_is_obeyed_while_a_plugin_runs(told, fault):
    assert told[fault]["error"][0] == PASSED_ON[fault]


@pytest.mark.parametrize("fault", [*FAULTS, *PASSED_ON])
def test_after_a_plugin_failed_memory_is_as_before_though_its_error_is_kept(told, fault):
    assert told[fault]["more"] <= MIB / 16


@pytest.mark.parametrize("fault", [*FAULTS, *PASSED_ON])
def test_after_a_plugin_failed_the_next_picture_is_that_of_before_bit_for_bit(told, fault):
    assert told[fault]["same"]


def test_the_command_line_tells_it_and_leaves_no_file(site, tmp_path):
    kernel, tiling = dit360(
        ["generate", "a castle", *SMALL, "--attention-backend", "exits-midway", "-o", "a.png"],
        ["generate", "a castle", *SMALL, "--tiling-backend", "third-tile-raises", "-o", "b.png"],
        cwd=tmp_path,
        PYTHONPATH=site,
    )
    assert (kernel.code, tiling.code) == (2, 2)
    assert "Error: A plugin failed while sampling 128×64: exits-midway" in kernel.err
    assert "Error: A plugin failed while running the autoencoder: third-tile-raises" in tiling.err
    assert list(tmp_path.iterdir()) == []


DOES_NOT_PARSE = '''"""Was cut off while it was copied."""

from dit360_core.plugins.hookspecs import hookimpl


@hookimpl
def dit360_attention_backends(
'''
ABOUT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "does-not-parse"
version = "0.14.0"

[project.entry-points.dit360]
does_not_parse = "does_not_parse"
"""
LIST = """
import json, sys
from dit360_core.plugins.registry import default_registry
registry = default_registry()
names = [entry.name for entry in registry.entries("attention")]
json.dump([names, [str(one) for one in registry.failures]], sys.stdout)
"""


def test_a_plugin_with_a_syntax_error_is_told_with_its_line_and_stops_no_other(site, tmp_path):
    (tmp_path / "does_not_parse").mkdir()
    (tmp_path / "does_not_parse" / "does_not_parse.py").write_text(DOES_NOT_PARSE)
    (tmp_path / "does_not_parse" / "pyproject.toml").write_text(ABOUT)
    broken = install(tmp_path / "site", "does_not_parse", source=tmp_path)
    names, failures = json.loads(python(LIST, cwd=tmp_path, fresh=True, PYTHONPATH=f"{broken}:{site}").stdout)
    assert failures == [
        "does-not-parse 0.14.0 (does_not_parse) cannot be imported: SyntaxError: '(' was never closed "
        "(does_not_parse.py, line 7)"
    ]
    assert {"sdpa", "exits-midway"} <= set(names)
