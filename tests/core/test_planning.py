"""Memory told in advance: traced, predicted, and kept to."""

import json
import sys
from pathlib import Path

import attrs
import dit360_core as dit360
import pytest
import torch
from command_line import dit360 as command
from command_line import python
from dit360_core.budget import candidates, fit, one, time_class
from dit360_core.errors import InputError
from dit360_core.forecast import subject_of
from dit360_core.machine import Machine
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.registry import default_registry
from dit360_core.speed import ASSUMED
from dit360_core.tracing import trace

GIB = 2**30
CARD = Machine(device="cuda", device_name="a card", capability=(8, 6), fast_bfloat16=True)


def subject(machine=CARD, sampling=None, here=False, **options):
    asked = LoadOptions(**{"model": "dit360", **options})
    found = subject_of(asked, sampling or SampleOptions(prompt="any"), DecodeOptions(), default_registry(), machine)
    return asked, attrs.evolve(found, here=here)


@pytest.fixture(scope="module")
def flux():
    """FLUX.1-dev on a card, traced once."""
    return subject()[1]


def fitted(flux, **options):
    asked = LoadOptions(model="dit360", **options)
    return asked, fit(asked, flux, ASSUMED)


def test_a_trace_counts_what_is_alive_and_multiplied():
    layer = torch.nn.Linear(1024, 2048, device="meta")

    def run():
        x = torch.empty(512, 1024, device="meta")
        y = layer(x)
        del x
        return y.exp() + 1

    found = trace(run, module=layer)
    # y, its exponential and the sum, when x is gone; before it x and y
    assert found.peak == 3 * 512 * 2048 * 4
    assert found.operations == 2 * 512 * 1024 * 2048


def test_a_trace_is_what_the_allocator_sees():
    """The same code on real tensors, with torch's profiler counting every allocation."""
    from dit360_core.flux.shapes import Shapes
    from dit360_core.pipeline import Pipeline
    from random_models import random_conditioning, random_flux
    from torch.profiler import ProfilerActivity, profile

    pipe = Pipeline.from_diffusers(random_flux(heads=8), attention_backend="sdpa")
    shapes = Shapes.of_pipeline(pipe.engine.pipe)
    from dit360_core.wrap import Grid

    grid = Grid.of_picture(1024, 512, 1)
    velocity = pipe.engine.velocity(grid, 3.0, None)
    x = pipe.engine.pack(pipe.engine.noise(grid, torch.Generator().manual_seed(1)))
    embedding = random_conditioning().positive
    with torch.no_grad():
        velocity(x, 1.0, embedding)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            velocity(x, 1.0, embedding)
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    traced = shapes.step(
        torch.float32, grid.tokens, 7, stores_scores=False, slice_size=0, quantized=None, size=int
    ).peak
    assert traced == pytest.approx(most, rel=0.05)


def test_flux_is_what_its_authors_say(flux):
    """Weights and work of shared facts: 22.2 and 8.9 GiB, 169 TFLOP a step (docs/memory.md)."""
    found = one(LoadOptions(model="dit360"), flux, ASSUMED).prediction
    step = found.phase("step")
    assert step.operations == pytest.approx(169e12, rel=0.01)
    assert step.weights / GIB == pytest.approx(22.2 + 8.87 + 0.16 + 0.23, abs=0.1)
    assert step.dominated_by == "weights of the transformer"
    assert 0.7 < step.working / GIB < 1.1
    eager = attrs.evolve(flux, attention=default_registry().find("attention", "eager")[0])
    scores = one(LoadOptions(model="dit360"), eager, ASSUMED).prediction.phase("step")
    assert scores.working / GIB == pytest.approx(0.8 + 24 * 8832**2 * 4 / GIB, abs=0.4)
    assert (
        "attention scores"
        in one(LoadOptions(model="dit360", offload="group"), eager, ASSUMED).prediction.phase("step").dominated_by
    )


@pytest.mark.parametrize("vram", [8, 12, 16, 24, 48])
def test_every_preset_keeps_to_its_card_and_changes_nothing_it_need_not(flux, vram):
    asked, found = fitted(flux, vram=vram)
    assert found.best.prediction.peak.total <= vram * GIB * 0.92
    assert found.best.error == 0.0
    assert all(each.prediction.peak.total <= vram * GIB * 0.92 for each in found.others)
    costs = [each.seconds * (1 + 10 * each.error) for each in (found.best, *found.others)]
    assert costs == sorted(costs)
    if vram == 48:
        assert found.best.differs(asked) == {}


def test_presets_weigh_picture_and_time(flux):
    slow = attrs.evolve(ASSUMED, link=2e9)  # a card behind a narrow link
    found = {
        preset: fit(LoadOptions(model="dit360", vram=24, preset=preset), flux, slow).best
        for preset in ("quality", "balanced", "speed")
    }
    assert found["quality"].error == 0
    assert found["speed"].seconds <= found["balanced"].seconds <= found["quality"].seconds
    assert found["speed"].error > 0
    low = fit(LoadOptions(model="dit360", preset="low-vram", vram="8"), flux, ASSUMED).best
    assert low.prediction.peak.total <= 8 * GIB


def test_what_was_given_stays(flux):
    _, found = fitted(flux, vram=16, quantization_mode="int8", offload="model")
    assert (found.best.options.quantization_mode, found.best.options.offload) == ("int8", "model")


def test_system_memory_counts_where_the_machine_is_known(flux):
    small = attrs.evolve(flux, machine=attrs.evolve(CARD, system_memory=16 * GIB))
    found = fit(LoadOptions(model="dit360", vram=24), small, ASSUMED)
    assert found.best.prediction.host <= 0.9 * 16 * GIB


def test_the_readme_has_every_preset_as_it_is_planned(flux, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "bench"))
    import presets

    monkeypatch.setattr(presets, "subject", lambda: flux)
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert "\n".join(presets.rows()) in readme, "run 'make presets'"


def test_nothing_fits_says_what_would(flux):
    with pytest.raises(InputError, match=r"Nothing keeps to 1\.\d GiB at 2048×1024: the least is .* use width \d+"):
        fitted(flux, vram=1.3)


def test_a_cpu_has_files_and_eviction():
    asked, found = subject(Machine(), model="tiny", vram=4)
    assert fit(asked, found, ASSUMED).best.differs(asked) == {}
    offloads = {each.options.offload for each in candidates(asked, found, ASSUMED, 4 * GIB)}
    assert offloads == {"none", "disk"}
    evicted = one(attrs.evolve(asked, evict="all"), found, ASSUMED).prediction
    assert evicted.phase("step").weights < one(asked, found, ASSUMED).prediction.phase("step").weights


@pytest.mark.parametrize(
    ("seconds", "told"), [(3, "seconds"), (59, "under a minute"), (299, "minutes"), (9999, "hours")]
)
def test_time_classes(seconds, told):
    assert time_class(seconds) == told


@pytest.mark.parametrize("vram", ["8", 8, "8GB", "8 GiB", "auto"])
def test_vram_as_people_write_it(vram):
    assert LoadOptions(vram=vram).vram


@pytest.mark.parametrize("vram", ["little", "0", "-3", "nan", "99999"])
def test_vram_that_is_none(vram):
    with pytest.raises(InputError, match=r"vram is .*, but must be auto, or GiB"):
        LoadOptions(vram=vram)


def test_loading_keeps_to_it_and_says_so(tiny_folder):
    pipe = dit360.load("tiny", device="cpu", vram=2, preset="quality")
    assert pipe.plan.asked.vram == "2"
    assert any("vram=2 preset=quality decided" in line for line in pipe.plan.sentences())
    used = pipe.generate("a castle", width=64, steps=1, seed=1).settings
    assert used["requested"]["vram"] == "2"
    with pytest.raises(InputError, match="Nothing keeps to"):
        dit360.load("tiny", device="cpu", vram="0.5")


def test_memory_is_measured_beside_the_prediction(tiny):
    picture = tiny.generate("a castle", width=128, steps=2, seed=1, log_memory_stats=True)
    told = picture.settings["used"]["memory"]
    assert [phase["name"].split()[0] for phase in told["phases"]] == ["reading", "sampling", "decoding"]
    assert all(phase["peak"] >= phase["before"] > 0 and phase["predicted"] > 0 for phase in told["phases"])
    assert "memory" not in tiny.generate("a castle", width=64, steps=1, seed=1).settings["used"]
    assert tiny.recorder is None
    predicted = tiny.predict(width=128)
    assert predicted.phase("step").working > 0


def test_stage_by_stage_memory_is_measured_too(tiny):
    latents = tiny.sample(tiny.encode("a castle"), width=64, steps=1, seed=1, log_memory_stats=True)
    told = tiny.decode(latents).settings["used"]["memory"]["phases"]
    assert [phase["name"] for phase in told] == ["sampling 64×32", "decoding 64×32"]


def test_auto_quantization_is_the_planners(flux):
    asked, found = fitted(flux, vram=12, quantization_mode="auto")
    assert found.best.options.quantization_mode == "none"
    assert fitted(flux, vram=24, quantization_mode="auto", preset="quality")[1].best.error == 0
    with pytest.raises(InputError, match="plan with --vram"):
        one(asked, flux, ASSUMED)


def test_a_lora_beside_the_weights_weighs_something():
    (_, fused), (_, beside) = subject(), subject(lora_mode="adapter")
    totals = [
        one(LoadOptions(model="dit360"), found, ASSUMED).prediction.phase("step").total for found in (fused, beside)
    ]
    assert totals[1] - totals[0] == pytest.approx(171 * 2**20, rel=0.1)


def test_a_card_that_is_not_here_has_no_free_memory(flux):
    with pytest.raises(InputError, match="say how much with --vram"):
        fitted(flux, preset="balanced")


def test_quantized_models_are_predicted_alike_before_and_after_loading(tiny_folder):
    options = {"model": "tiny", "quantization_mode": "int8", "device": "cpu"}
    asked, before = subject(Machine(), here=True, **options)
    predicted = one(asked, before, ASSUMED).prediction.phase("step")
    pipe = dit360.load(**options)
    after = pipe.predict().phase("step")
    assert after.working == predicted.working
    assert after.weights == pytest.approx(predicted.weights, rel=0.02)


def test_the_commands_tell_people_and_programs(tmp_path):
    people, programs, wrong, small, drawn = command(
        ["plan", "--model", "dit360", "--vram", "8"],
        ["plan", "--device", "cpu", "--vram", "20", "--preset", "quality", "--size", "1024x512", "--json"],
        ["plan", "--size", "2048 by 1024"],
        ["plan", "--device", "cpu", "--vram", "0.5"],
        ["generate", "a castle", "-o", "a.jpg", "--width", "64", "--steps", "1", "--profile", "p.html"],
        cwd=tmp_path,
    )
    assert people.code == 0, people.err
    assert "8.0 GiB, balanced: offload=group" in people.out
    assert "System memory: 31.4 GiB" in people.out
    assert [phase["name"] for phase in programs.json["phases"]] == ["loading", "text encoding", "step", "decode"]
    assert max(phase["total"] for phase in programs.json["phases"]) <= 20 * GIB
    assert programs.json["others"]
    for failed in (wrong, small):
        assert failed.code == 2
        assert failed.err.count("Error") == 1
    assert drawn.code == 0, drawn.err
    page = (tmp_path / "p.html").read_text()
    assert all(word in page for word in ("loading", "sampling 64×32", "decoding 64×32", "step 1", "redicted"))


_ONE_PROCESS = """
import gc, json, sys, torch
sys.path.insert(0, sys.argv[1])
import prediction
import dit360_core as dit360
from dit360_core.memory import give_back_freed_memory, used_memory

found = prediction.child({"model": "tiny", "width": 1024, "attention_backend": "eager"})
torch.set_num_threads(1)  # the pictures are small
pipe = dit360.load("tiny", device="cpu")

def held():
    gc.collect()
    give_back_freed_memory("cpu")
    return used_memory("cpu")

def make(count):
    for seed in range(count):
        pipe.generate("a castle", width=64, steps=1, seed=seed)

make(10)
before = held()
make(50)
print(json.dumps({**found, "growth": (held() - before) / 2**20}))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One combination of bench/prediction.py, whose table is in docs/memory.md; then fifty pictures in that process."""
    bench = str(Path(__file__).parents[2] / "bench")
    done = python(_ONE_PROCESS.replace("sys.argv[1]", repr(bench)), cwd=tmp_path_factory.mktemp("measured"))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory as Linux counts it")
def test_predicted_within_ten_percent(measured):
    largest = max(measured["phases"], key=lambda phase: phase["measured"])
    assert largest["predicted"] == pytest.approx(largest["measured"], rel=0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory as Linux counts it")
def test_fifty_pictures_leave_nothing_behind(measured):
    assert measured["growth"] <= 1, "MiB more than before"
