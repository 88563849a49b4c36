"""The device is found without PyTorch: by NVML, nvidia-smi, the drivers' files, and what PyTorch was built for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import dit360, python
from dit360_core.errors import InputError
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.plugins.registry import default_registry
from dit360_core.system.devices import amd, nvidia
from dit360_core.system.devices.build import build_in
from dit360_core.system.devices.cards import Card, visible
from dit360_core.system.installed import installed_version
from dit360_core.system.machine import Machine

GIB = 2**30


def torch_for(folder, cuda="13.0", hip=None):
    """A PyTorch of which only what it was built for can be read: importing it is an error."""
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('torch was imported')\n")
    (package / "version.py").write_text(
        f"from typing import Optional\n__version__ = '2.13.0+x'\ncuda: Optional[str] = {cuda!r}\n"
        f"hip: Optional[str] = {hip!r}\n"
    )
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with a libnvidia-ml.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("nvml.c")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here, which makes the library")
    command = ["cc", "-w", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source]
    subprocess.run(command, check=True, timeout=120)
    return folder


DETECT = """
import json, os, sys
from dit360_core.errors import InputError
from dit360_core.system.machine import Machine
told = []
for device, changes in json.load(sys.stdin):
    for name in [*os.environ]:
        if name.startswith(("FAKE_", "CUDA_")):
            del os.environ[name]
    os.environ.update(changes)
    try:
        found = Machine.detect(device)
        told.append([found.device, found.device_name, found.device_memory >> 30, found.capability, found.guessed])
    except InputError as error:
        told.append(str(error))
assert "torch" not in sys.modules
json.dump(told, sys.stdout)
"""


def detected(cases, cwd, **environ):
    done = python(DETECT, cwd=cwd, fresh=True, given=json.dumps(cases), **environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nvml_tells_the_card_that_cuda_would_take(library, tmp_path):
    h200 = ["cuda", "NVIDIA H200", 139, [9, 0], True]
    a6000 = ["cuda", "NVIDIA RTX A6000", 47, [8, 6], True]
    small = ["cuda", "NVIDIA H200 MIG 1g.18gb", 16, [9, 0], True]
    large = ["cuda", "NVIDIA H200 MIG 2g.35gb", 32, [9, 0], True]
    cases = [
        ({}, h200),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, a6000),
        ({"CUDA_VISIBLE_DEVICES": "1"}, a6000),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, a6000),
        ({"FAKE_MIG": "2"}, a6000),
        ({"FAKE_MIG": "2", "CUDA_VISIBLE_DEVICES": "0"}, small),
        ({"FAKE_MIG": "2", "CUDA_VISIBLE_DEVICES": "MIG-dddd-4"}, large),
        ({"FAKE_MIG": "2", "CUDA_VISIBLE_DEVICES": "GPU-bbbb-2"}, small),
    ]
    told = detected([("auto", changes) for changes, _ in cases], tmp_path, PYTHONPATH=torch_for(tmp_path / "packages"),
                    LD_LIBRARY_PATH=library)  # fmt: skip
    for (changes, wanted), found in zip(cases, told, strict=True):
        assert found == wanted, changes


@pytest.mark.parametrize(
    ("changes", "guessed"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "hides NVIDIA H200"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "hides NVIDIA H200"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-none"}, "hides NVIDIA H200"),
    ],
)
def test_cards_that_are_hidden_are_refused_by_name_without_torch(library, tmp_path, changes, guessed):
    packages = torch_for(tmp_path / "packages")
    cases = [("cuda", changes), ("auto", changes)]
    refused, instead = detected(cases, tmp_path, PYTHONPATH=packages, LD_LIBRARY_PATH=library)
    assert refused.startswith("The device 'cuda' is not available here: CUDA_VISIBLE_DEVICES=")
    assert guessed in refused
    assert instead[0] == "cpu"


def test_a_driver_that_is_too_old_or_broken_is_no_card(library, tmp_path):
    cases = [("auto", {"FAKE_CUDA": "12040"}), ("auto", {"FAKE_INIT": "18"}), ("auto", {"FAKE_COUNT": "0"})]
    told = detected(cases, tmp_path, PYTHONPATH=torch_for(tmp_path / "packages"), LD_LIBRARY_PATH=library)
    assert [found[0] for found in told] == ["cpu"] * 3
    assert all(found[4] for found in told), "PyTorch has the last word"


def test_a_build_without_cuda_needs_no_look(library, tmp_path):
    packages = torch_for(tmp_path / "packages", cuda=None)
    refused, instead = detected([("cuda", {}), ("auto", {})], tmp_path, PYTHONPATH=packages, LD_LIBRARY_PATH=library)
    assert "is built without CUDA" in refused
    assert (instead[0], instead[4]) == ("cpu", False)


def test_backends_are_listed_for_the_card_without_importing_torch(library, tmp_path):
    # What would be tried on it in another process is switched off: that process imports torch.
    (told,) = dit360(
        ["backends", "--json"],
        cwd=tmp_path,
        fresh=True,
        PYTHONPATH=torch_for(tmp_path / "packages"),
        LD_LIBRARY_PATH=library,
        DIT360_DISABLED_PLUGINS="dit360-attn-flash,dit360-attn-xformers",
    )
    assert told.code == 0, told.err
    assert told.json["device"] == "cuda"


SMI = """#!/bin/sh
case "$*" in
  -L) printf 'GPU 0: NVIDIA A100 (UUID: GPU-1)\\n  MIG 3g.20gb Device  0: (UUID: MIG-7)\\n' ;;
  *compute_cap*) {new} ;;
  *) echo 'Tesla T4, GPU-9, 15360' ;;
esac
"""


@pytest.mark.parametrize(
    ("new", "cards"),
    [
        ("echo 'NVIDIA GeForce RTX 4090, GPU-5, 24564, [N/A], 8.9'", ("NVIDIA GeForce RTX 4090", 24564, (8, 9))),
        ("echo 'NVIDIA A100, GPU-1, 40960, Enabled, 8.0'", ("NVIDIA A100 MIG 3g.20gb", 0, (8, 0))),
        ("exit 2", ("Tesla T4", 15360, None)),
    ],
)
def test_nvidia_smi_is_asked_where_there_is_no_nvml(tmp_path, monkeypatch, new, cards):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.replace("{new}", new))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if nvidia._by_nvml() is not None:
        pytest.skip("this machine has NVML")
    (card,) = visible(nvidia.driver(tmp_path).cards, None)
    assert (card.name, card.memory // 2**20, card.capability) == cards


def test_the_drivers_files_name_a_card(tmp_path, monkeypatch):
    bus = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    bus.mkdir(parents=True)
    (bus / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 1\nGPU UUID: \t GPU-3\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    if nvidia._by_nvml() is not None:
        pytest.skip("this machine has NVML")
    found = nvidia.driver(tmp_path)
    assert [(card.name, card.uuid) for card in found.cards] == [("NVIDIA L4", "GPU-3")]
    nothing = nvidia.driver(tmp_path / "elsewhere")
    assert not nothing.cards
    assert not nothing.trace


def test_amds_cards_are_those_of_its_driver(tmp_path):
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, about in enumerate(["simd_count 0", "simd_count 416\ngfx_target_version 90010\nunique_id 255"]):
        (nodes / f"{number}/mem_banks/0").mkdir(parents=True)
        (nodes / f"{number}/properties").write_text(about)
        (nodes / f"{number}/mem_banks/0/properties").write_text(f"heap_type 1\nsize_in_bytes {64 * GIB}\n")
    (card,) = amd.cards(tmp_path)
    assert (card.name, card.memory, card.capability) == ("AMD GPU (gfx90a)", 64 * GIB, (9, 0))
    assert card.uuid == "GPU-00000000000000ff"


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, "abc"), ("", ""), ("-1", ""), ("1", "b"), ("2,0", "ca"), ("0,7,1", "a"), ("1,1", ""), ("0,-1,2", "a"),
        ("GPU-c", "c"), ("GPU-", ""), ("x", ""), (" 1 , 2", "bc"),
    ],
)  # fmt: skip
def test_visible_devices_are_read_as_cuda_reads_them(asked, seen):
    cards = [Card(name=name, uuid=f"GPU-{name}") for name in "abc"]
    assert "".join(card.name for card in visible(cards, asked)) == seen


def test_what_torch_was_built_for_is_read_from_its_files(tmp_path):
    assert build_in(torch_for(tmp_path / "cuda") / "torch").cuda == "13.0"
    assert build_in(torch_for(tmp_path / "hip", None, "6.4") / "torch").hip == "6.4"
    assert not build_in(torch_for(tmp_path / "cpu", None) / "torch").may_have_cuda
    assert build_in(tmp_path, "2.9.1+cu128").cuda == "12.8"
    assert not build_in(tmp_path, "2.9.1+cpu").may_have_cuda


def test_a_wrong_guess_is_corrected_before_anything_is_loaded():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    guess = Machine(device="cuda", device_name="NVIDIA Ghost", capability=(9, 0), fast_bfloat16=True, guessed=True)
    plan = prepare(LoadOptions(), registry=default_registry(), machine=guess).plan
    assert plan.device == "cpu"
    assert any("cannot use NVIDIA Ghost" in line and "so the CPU computes" in line for line in plan.warnings())
    with pytest.raises(InputError, match="The device 'cuda' is not available here: PyTorch"):
        prepare(LoadOptions(device="cuda"), registry=default_registry(), machine=guess)


def test_a_distribution_whose_installation_was_interrupted_has_no_version(tmp_path, monkeypatch):
    (tmp_path / "half_there-1.0.dist-info").mkdir()
    (tmp_path / "half_there-1.0.dist-info" / "METADATA").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("half-there") is None
