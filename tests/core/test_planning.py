"""Memory told in advance: traced, predicted, and kept to."""

import json
import re
import sys
from pathlib import Path

import attrs
import dit360_core as dit360
import everywhere
import pytest
import torch
from command_line import dit360 as command
from command_line import python
from dit360_core.errors import Dit360Error, InputError
from dit360_core.models.shapes.tracing import trace
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.planning.budget import NothingFits, budget_for, candidates, fit, one
from dit360_core.planning.forecast import bytes_before, machine_for, subject_of, with_system_memory
from dit360_core.planning.precision import precision_for
from dit360_core.planning.speed import APPLE, ASSUMED
from dit360_core.planning.verdict import verdict_of
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.durations import duration
from dit360_core.system.machine import Machine
from invented_plugins import installed, offering, quantizer, scheduler, tiling

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
    from dit360_core.models.flux.architecture import FLUX
    from dit360_core.models.shapes.shapes import Shapes
    from dit360_core.pipeline.pipeline import Pipeline
    from random_models import random_conditioning, random_flux
    from torch.profiler import ProfilerActivity, profile

    pipe = Pipeline.from_diffusers(random_flux(heads=8), attention_backend="sdpa")
    shapes = Shapes.of_pipeline(FLUX, pipe.engine.pipe)
    from dit360_core.sphere.grid import Grid

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
    readme = (root / "docs/choosing.md").read_text(encoding="utf-8")
    assert "\n".join(presets.rows()) in readme, "run 'make presets'"


def test_nothing_fits_says_what_would(flux):
    with pytest.raises(InputError, match=r"Nothing fits into 1\.\d GiB at 2048×1024: the least is .* use width \d+"):
        fitted(flux, vram=1.3)


def test_a_card_of_12_gib_in_32_gib_of_system_memory_lets_no_more_weights_wait_than_these_hold(flux):
    asked = LoadOptions(model="dit360", vram=12, ram=32)
    found = attrs.evolve(flux, machine=with_system_memory(CARD, asked, here=False))
    best = fit(asked, found, ASSUMED).best
    assert best.prediction.host <= found.host_room < 28 * GIB
    assert best.differs(asked), "31.4 GiB of weights do not wait in 32 GiB beside a system"
    verdict = verdict_of(asked, found, ASSUMED, best)
    assert verdict.fits
    assert "GiB of weights in 32.0 GiB of system memory" in verdict.sentence(asked)
    named = verdict_of(asked, found, ASSUMED, one(attrs.evolve(asked, offload="group"), found, ASSUMED))
    assert named.fits is False
    assert "31.4 GiB of weights need system memory" in named.why
    assert all(each.prediction.host <= found.host_room for each in named.would)


def test_a_verdict_says_what_would_fit_and_each_of_it_does(flux):
    asked = LoadOptions(model="dit360", vram=12)
    verdict = verdict_of(asked, flux, ASSUMED, one(asked, flux, ASSUMED))
    assert verdict.fits is False
    assert re.match(r"Does not fit: decoding takes 3\d\.\d GiB of the card's memory.* What would: ",
                    verdict.sentence(asked))  # fmt: skip
    for each in verdict.would:
        assert one(each.options, flux, ASSUMED).prediction.peak.total <= 0.92 * 12 * GIB
    tight = LoadOptions(model="dit360", vram=1.3)
    told = verdict_of(tight, flux, ASSUMED, one(tight, flux, ASSUMED))
    assert not told.would
    assert re.search(r"No combination fits: the smallest takes 1\.\d GiB .*; a picture of width \d+ takes",
                     told.sentence(tight))  # fmt: skip
    unknown = LoadOptions(model="dit360")
    needs = verdict_of(unknown, flux, ASSUMED, one(unknown, flux, ASSUMED))
    assert needs.fits is None
    assert needs.sentence(unknown).startswith("Needs 36.")


def test_where_nothing_fits_programs_are_told_the_least(flux):
    asked = LoadOptions(model="dit360", vram=8, ram=4)
    found = attrs.evolve(flux, machine=with_system_memory(CARD, asked, here=False))
    with pytest.raises(NothingFits, match=r"Nothing fits into 4\.0 GiB of system memory, of which 1\.6 GiB") as failed:
        fit(asked, found, ASSUMED)
    told = verdict_of(asked, found, ASSUMED, failed.value.least).as_dict(asked)
    assert (told["fits"], told["would_fit"], told["smaller"]) == (False, [], None)
    assert told["least"]["host"] > told["host_room"]
    json.dumps(told, allow_nan=False)


def test_a_mac_is_planned_for_wherever_one_is(flux):
    """Weights and activations share one memory, of which a program may take three quarters; nothing is offloaded."""
    asked = LoadOptions(model="dit360", device="mps", ram=32)
    machine, here = machine_for(asked)
    assert (machine.device, machine.system_memory, here) == ("mps", 32 * GIB, False)
    assert precision_for(asked, flux.model, machine) == "bf16"
    found = attrs.evolve(flux, machine=machine, held=bytes_before("mps"))
    every = list(candidates(asked, found, APPLE, 32 * GIB))
    assert {each.options.offload for each in every} == {"none"}
    assert {each.options.quantization_mode for each in every} == {"none", "int8"}, (
        "what runs there, by the offers' word"
    )
    best = fit(asked, found, APPLE).best
    assert best.prediction.peak.total <= 24 * GIB
    assert best.prediction.host == 0


def test_a_cpu_of_another_size_is_planned_for_and_keeps_a_share_for_the_system():
    asked = LoadOptions(model="dit360", device="cpu", ram=256)
    machine, here = machine_for(asked)
    assert (machine.device, machine.system_memory, here) == ("cpu", 256 * GIB, False)
    found = attrs.evolve(subject(machine, device="cpu", ram=256)[1], here=False)
    assert budget_for(asked, found) == int(0.9 * 256 * GIB)


def test_no_evaluation_is_predicted_where_nothing_is_made_anew(flux):
    assert attrs.evolve(flux, sampling=SampleOptions(prompt="any", denoise=0.0)).evaluations == 0
    assert attrs.evolve(flux, sampling=SampleOptions(prompt="any", denoise=0.5, steps=8)).evaluations == 8


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda steps: 1 / 0, "ZeroDivisionError"), (lambda steps: float("nan"), "NaN|nan"), (lambda steps: -3, "-3"),
        (lambda steps: "many", "many"), (lambda steps: None, "None"), (lambda steps: 10**400, "10000"),
        (lambda steps: 2.5, "2.5"), (lambda steps: True, "True"),
    ],
)  # fmt: skip
def test_a_solver_that_cannot_say_how_often_it_asks_is_named_with_its_answer(flux, answer, told):
    registry = Registry(entry_points=installed("odd", offering(scheduler("odd", evaluations=answer))))
    asked = attrs.evolve(flux, registry=registry, sampling=SampleOptions(prompt="any", scheduler_type="odd"))
    with pytest.raises(Dit360Error, match=rf"The scheduler odd \(odd 1\.0\) cannot say how often .*({told})"):
        _ = asked.evaluations


@pytest.mark.parametrize(
    ("answer", "told"),
    [(lambda need: 1 / 0, "ZeroDivisionError"), (lambda need: float("nan"), "NaN|nan"), (lambda need: -1, "-1")],
)
def test_a_quantization_that_cannot_say_what_memory_it_takes_is_named(flux, answer, told):
    registry = Registry(entry_points=installed("odd", offering(quantizer("odd", bits=8.0, scratch=answer))))
    asked = attrs.evolve(flux, registry=registry, quantizer="odd")
    with pytest.raises(
        Dit360Error, match=rf"The quantization odd \(odd 1\.0\) cannot say what memory a layer .*({told})"
    ):
        one(LoadOptions(model="dit360", quantization_mode="odd"), asked, ASSUMED)


class Mute:
    """A tiling that predicts nonsense."""

    def __init__(self, answer):
        self.predicts = lambda vae, shape, device, room: answer()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"), (lambda: {"level": "stored"}, "KeyError"), (lambda: None, "NoneType"),
        (lambda: {"bytes": float("inf"), "level": "stored"}, "infinity"), (lambda: {"bytes": -5, "level": ""}, "-5"),
    ],
)  # fmt: skip
def test_a_tiling_that_cannot_say_what_memory_it_takes_is_named(flux, answer, told):
    odd = tiling("odd", load=lambda settings: Mute(answer))
    registry = Registry(entry_points=installed("odd", offering(odd)))
    asked = attrs.evolve(flux, registry=registry, decoding=DecodeOptions(tiling_backend="odd"))
    with pytest.raises(Dit360Error, match=rf"The tiling odd \(odd 1\.0\) cannot say what memory .*({told})"):
        one(LoadOptions(model="dit360"), asked, ASSUMED)


class Talks:
    """A tiling that says what it takes, and of encoding only if it is asked to."""

    def __init__(self, encoding):
        self.predicts = lambda vae, shape, device, room: {"bytes": 5000, "level": "a", "operations": 3}
        if encoding:
            self.predicts_encoding = lambda vae, shape, device, room: {"bytes": shape[1] * shape[2], "level": "b"}


@pytest.mark.parametrize(("encoding", "bytes_", "level"), [(True, 3 * 256, "b"), (False, 5000, "a")])
def test_a_picture_that_is_given_is_encoded_first(flux, encoding, bytes_, level):
    odd = tiling("odd", load=lambda settings: Talks(encoding))
    asked = attrs.evolve(
        flux,
        registry=Registry(entry_points=installed("odd", offering(odd))),
        decoding=DecodeOptions(tiling_backend="odd"),
        sampling=SampleOptions(prompt="any", width=512, height=256),
    )

    def phases(subject):
        return one(LoadOptions(model="dit360"), subject, ASSUMED).prediction.phases

    assert "encode" not in [phase.name for phase in phases(asked)]
    for change in ({"sampling": attrs.evolve(asked.sampling, denoise=0.6)}, {"given": True}, {"referring": True}):
        found = phases(attrs.evolve(asked, **change))
        assert [phase.name for phase in found] == ["encode", "text encoding", "step", "decode"]
        assert (found[0].working, found[0].level, found[3].working) == (bytes_, level, 5000)


def test_what_the_system_would_kill_is_warned_of_before_weights_are_read(tiny_folder, monkeypatch, caplog):
    everywhere.replace(monkeypatch, "free_memory", lambda device: 40 * 2**20)
    prepare(LoadOptions(model="tiny", device="cpu"), registry=default_registry())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.match(r"The system may end this process: decoding takes .*iB of system memory, and there are ", warning)
    assert "What would: " in warning or "No combination fits: " in warning


def test_a_cpu_has_files_and_eviction():
    asked, found = subject(Machine(), model="tiny", vram=4)
    assert fit(asked, found, ASSUMED).best.differs(asked) == {}
    offloads = {each.options.offload for each in candidates(asked, found, ASSUMED, 4 * GIB)}
    assert offloads == {"none", "disk"}
    evicted = one(attrs.evolve(asked, evict="all"), found, ASSUMED).prediction
    assert evicted.phase("step").weights < one(asked, found, ASSUMED).prediction.phase("step").weights


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0.0 s"), (0.04, "40 ms"), (0.4, "0.4 s"), (9.96, "10 s"), (59, "59 s"),
        (119.4, "119 s"), (119.6, "2.0 min"),
        (600, "10 min"), (7199, "2.0 h"), (2334 * 60, "39 h"), (3 * 86400 - 1, "3.0 days"), (1e8, "1157 days"),
        (float("inf"), "for ever"),
    ],
)  # fmt: skip
def test_durations_as_people_tell_them(seconds, told):
    assert duration(seconds) == told


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
    with pytest.raises(InputError, match="Nothing fits into"):
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


def test_the_memory_of_encoding_is_measured_beside_the_prediction(tiny):
    picture = tiny.generate("a castle", width=128, steps=1, seed=1)
    made = tiny.upscale(picture, to=256, steps=1, denoise=0.1, log_memory_stats=True)
    told = made.settings["used"]["memory"]["phases"]
    assert [phase["name"].split()[0] for phase in told] == ["encoding", "reading", "sampling", "decoding"]
    assert all(phase["predicted"] > 0 for phase in told)


def test_stage_by_stage_memory_is_measured_too(tiny):
    latents = tiny.sample(tiny.encode("a castle"), width=64, steps=1, seed=1, log_memory_stats=True)
    told = tiny.decode(latents).settings["used"]["memory"]["phases"]
    assert [phase["name"] for phase in told] == ["sampling 64×32", "decoding 64×32"]


def test_auto_quantization_is_the_planners(flux):
    asked, found = fitted(flux, vram=12, quantization_mode="auto")
    assert found.best.options.quantization_mode == "none"
    assert fitted(flux, vram=24, quantization_mode="auto", preset="quality")[1].best.error == 0
    with pytest.raises(InputError, match="plan with vram"):
        one(asked, flux, ASSUMED)


def test_a_lora_beside_the_weights_weighs_something():
    (_, fused), (_, beside) = subject(), subject(lora_mode="adapter")
    totals = [
        one(LoadOptions(model="dit360"), found, ASSUMED).prediction.phase("step").total for found in (fused, beside)
    ]
    assert totals[1] - totals[0] == pytest.approx(171 * 2**20, rel=0.1)


def test_a_card_that_is_not_here_has_no_free_memory(flux):
    with pytest.raises(InputError, match="give it with vram"):
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
        ["plan", "--device", "cpu", "--vram", "0.5", "--size", "2048x1024"],
        ["generate", "a castle", "-o", "a.jpg", "--width", "64", "--steps", "1", "--profile", "p.html"],
        cwd=tmp_path,
    )
    assert people.code == 0, people.err
    assert "8.0 GiB, balanced: --offload group" in people.out
    assert "System memory: 31.4 GiB" in people.out
    assert [phase["name"] for phase in programs.json["phases"]] == ["loading", "text encoding", "step", "decode"]
    assert max(phase["total"] for phase in programs.json["phases"]) <= 20 * GIB
    assert programs.json["others"]
    assert (wrong.code, wrong.err.count("Error")) == (2, 1)
    # What does not fit is no bad input, and no success.
    assert (small.code, small.err) == (1, "")
    assert re.match(r"Does not fit: \w+ takes \d+ MiB of system memory, and there are 512 MiB\. ", small.out)
    assert people.out.startswith("Fits: at most ")
    assert programs.json["verdict"]["fits"] is True
    assert drawn.code == 0, drawn.err
    page = (tmp_path / "p.html").read_text()
    assert all(word in page for word in ("loading", "sampling 64×32", "decoding 64×32", "step 1", "redicted"))


_ONE_COMBINATION = """
import json
import prediction

print(json.dumps(prediction.child({"model": "tiny", "width": 1024, "attention_backend": "eager"})))
"""

_FIFTY_PICTURES = """
import gc, torch
import dit360_core as dit360
from dit360_core.system.memory import give_back_freed_memory, used_memory

torch.set_num_threads(1)  # the pictures are small
pipe = dit360.load("tiny", device="cpu")

def held():
    gc.collect()
    give_back_freed_memory("cpu")
    return used_memory("cpu")

def make(count):
    for seed in range(count):
        pipe.generate("a castle", width=64, steps=1, seed=seed)

make(5)
before = held()
make(50)
print((held() - before) / 2**20)
"""

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory as Linux counts it")


def last_line_of(code, folder, **environ):
    done = python(code, cwd=folder, **environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@on_linux
def test_predicted_within_ten_percent(tmp_path):
    """One combination of bench/prediction.py, whose table is in docs/memory.md."""
    measured = last_line_of(_ONE_COMBINATION, tmp_path, PYTHONPATH=Path(__file__).parents[2] / "bench")
    largest = max(measured["phases"], key=lambda phase: phase["measured"])
    assert largest["predicted"] == pytest.approx(largest["measured"], rel=0.1)


@on_linux
@pytest.mark.long
def test_fifty_pictures_leave_nothing_behind(tmp_path):
    assert last_line_of(_FIFTY_PICTURES, tmp_path) <= 1, "MiB more than before"
