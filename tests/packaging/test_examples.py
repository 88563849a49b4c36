"""The plugins in ``examples`` are short, can be installed together, keep the contract and make pictures."""

import ast
import importlib
import itertools
import tomllib
from importlib import metadata
from pathlib import Path

import attrs
import numpy
import pytest
from command_line import dit360, install
from dit360_core import LoadOptions, load
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.plugins import registry as looking
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.offers import Tiling
from dit360_core.plugins.registry import Registry
from dit360_core.testing import (
    ArchitectureConformance,
    AttentionConformance,
    FormatConformance,
    ModelConformance,
    OfferConformance,
    QuantizerConformance,
    SchedulerConformance,
    TilingConformance,
)
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
ASKED = {
    "attention": ("attention-float32", "float32", "--attention-backend"),
    "quantization": ("quantization-fp8-plain", "fp8-plain", "--quantization-mode"),
    "scheduler": ("scheduler-midpoint", "midpoint", "--scheduler-type"),
    "tiling": ("tiling-wide", "wide", "--tiling-backend"),
    "architecture": ("architecture-flux-quick", "a-quick-model", "--model"),
    "format": ("format-npy", "weights.npy", "--transformer"),
    "model": ("model-tiny-night", "tiny-night", "--model"),
}
FAMILY = "flux-quick"
"""Of which a-quick-model is a folder."""
OFFERED = {"architecture": FAMILY, "format": "npy"}
"""Names of those offers that are not asked for by name."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which all of them are installed together."""
    return install(tmp_path_factory.mktemp("site"), *NAMES, source=EXAMPLES)


@pytest.fixture(scope="module")
def registry(site):
    """What is installed there, beside what the core has."""
    found = itertools.chain.from_iterable(d.entry_points for d in metadata.distributions(path=[str(site)]))
    return Registry(entry_points=found)


@pytest.fixture
def importable(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))


def module_of(kind):
    return ASKED[kind][0].replace("-", "_")


def offer_of(kind):
    hook, _ = KINDS[kind]
    (offer,) = getattr(importlib.import_module(module_of(kind)), hook)()
    return offer


def write_record(path, tensors):
    """As the form of the examples has it."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    fields = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    numpy.save(path, numpy.array(tuple(arrays.values()), fields))


# ------------------------------------------------------------------------------------------------------------- short


def test_there_is_one_of_every_kind():
    assert sorted(KINDS) == sorted(ASKED)
    assert sorted(distribution for distribution, _, _ in ASKED.values()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_one_short_module_and_a_short_project_file(name):
    (module,) = (EXAMPLES / name).glob("*.py")
    text = module.read_text(encoding="utf-8")
    about = ast.parse(text).body[0].end_lineno
    code = [line for line in text.splitlines()[about:] if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 21, len(code)
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project) == {"build-system", "project"}
    assert set(project["project"]) == {"name", "version", "dependencies", "entry-points"}
    assert project["project"]["name"] == name
    assert project["project"]["entry-points"] == {"dit360": {module.stem: module.stem}}


@pytest.mark.parametrize("kind", ASKED)
def test_the_table_tells_how_to_try_it(kind):
    folder, name, option = ASKED[kind]
    row = f"| [{folder}]({folder}) | `{option} {name}` | "
    assert row in (EXAMPLES / "README.md").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- used


@pytest.mark.long
def test_together_they_are_listed_as_available_and_nothing_failed(site, tmp_path):
    (listed,) = dit360(["backends", "--json"], cwd=tmp_path, fresh=True, PYTHONPATH=site)
    assert listed.code == 0, listed.err
    assert listed.json["failures"] == []
    found = {(o["kind"], o["distribution"], o["name"]): o for o in listed.json["offers"]}
    for kind, (distribution, name, _) in ASKED.items():
        offer = found[kind, distribution, OFFERED.get(kind, name)]
        assert offer["available"], offer["reasons"]


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("kind", ASKED)
def test_it_makes_a_picture(registry, kind, tiny_copy, monkeypatch):
    distribution, name, option = ASKED[kind]
    if kind == "architecture":
        index = tiny_copy / "model_index.json"
        index.write_text(index.read_text().replace("FluxPipeline", "QuickFluxPipeline"))
        name = str(tiny_copy)
    if kind == "format":
        name = str(tiny_copy / name)
        write_record(name, load_file(tiny_copy / "transformer" / "diffusion_pytorch_model.safetensors"))
        # A file is opened by what is installed in this environment.
        monkeypatch.setattr(looking, "_default", registry)
    asked = {option.removeprefix("--").replace("-", "_"): name}
    loading = {field.name for field in attrs.fields(LoadOptions)}
    pipe = load(registry=registry, **{key: value for key, value in asked.items() if key in loading})
    made = pipe.generate(
        "a castle", width=128, steps=2, seed=7, **{key: value for key, value in asked.items() if key not in loading}
    )
    assert made.size == (128, 64)
    if kind == "architecture":
        assert pipe.engine.architecture.name == FAMILY
        assert pipe.plan.model.steps == 8
        return
    if kind == "format":
        assert made.settings["used"]["transformer"] == name
        assert made.image.tobytes() == load().generate("a castle", width=128, steps=2, seed=7).image.tobytes()
        return
    used = made.settings["used"][kind]
    if kind == "model":
        assert used == name
    else:
        assert (used["used"], used["distribution"]) == (name, distribution)


# ---------------------------------------------------------------------------------------------------------- contract


@pytest.mark.usefixtures("importable")
class TestAttention(AttentionConformance):
    module = module_of("attention")

    def offer(self):
        return offer_of("attention")

    def needs(self):
        # At FLUX's length, which takes seconds, PyTorch's kernel is tried with the core's own.
        return [need for need in super().needs() if need.length < 8832]


@pytest.mark.usefixtures("importable")
class TestQuantization(QuantizerConformance):
    module = module_of("quantization")

    def offer(self):
        return offer_of("quantization")


@pytest.mark.usefixtures("importable")
class TestScheduler(SchedulerConformance):
    module = module_of("scheduler")

    def offer(self):
        return offer_of("scheduler")


@pytest.mark.usefixtures("importable")
class TestTiling(TilingConformance, OfferConformance):
    module = module_of("tiling")
    kind = Tiling
    exact = False
    cuts = False

    def offer(self):
        return offer_of("tiling")

    def load(self, settings):
        return self.offer().load(settings)


@pytest.mark.usefixtures("importable")
class TestFormat(FormatConformance):
    module = module_of("format")

    def offer(self):
        return offer_of("format")

    def write(self, path, tensors):
        write_record(path, tensors)


@pytest.mark.usefixtures("importable")
class TestModel(ModelConformance):
    module = module_of("model")

    def offer(self):
        return offer_of("model")


@pytest.mark.long
@pytest.mark.usefixtures("importable")
class TestArchitecture(ArchitectureConformance):
    module = module_of("architecture")

    def offer(self):
        return offer_of("architecture")

    def pipeline(self):
        from diffusers import FluxPipeline

        class QuickFluxPipeline(FluxPipeline):
            pass

        return QuickFluxPipeline.from_pretrained(EMBEDDED_MODEL)
