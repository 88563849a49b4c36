"""The FlashAttention backends: what they refuse, and what they make of libraries that are installed and broken."""

import importlib.util
import json
import shutil
import subprocess
import sysconfig

import pytest
import torch
from command_line import LIBRARIES, install, python
from dit360_attn_flash import active_in_torch, dit360_attention_backends, hub
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine
from dit360_core.testing import AttentionConformance

OFFERS = {offer.name: offer for offer in dit360_attention_backends()}
ORDER = ["flash-3", "flash-4", "flash-2", "flash-hub", "flash-torch"]
HOPPER = Machine(device="cuda", capability=(9, 0), fast_bfloat16=True)


def need(device="cuda", dtype="bf16", head_dim=128):
    return AttentionNeed(device=device, dtype=dtype, heads=24, head_dim=head_dim, length=8832)


class Flash(AttentionConformance):
    module = "dit360_attn_flash"
    heavy = ("torch", "flash_attn", "kernels", "huggingface_hub", "numpy", "diffusers", "transformers")
    name = ""

    def offer(self):
        return OFFERS[self.name]


class TestFlash3(Flash):
    name = "flash-3"


class TestFlash4(Flash):
    name = "flash-4"


class TestFlash2(Flash):
    name = "flash-2"


class TestFlashHub(Flash):
    name = "flash-hub"


class TestFlashTorch(Flash):
    name = "flash-torch"


def test_the_family_is_tried_from_the_newest_to_what_needs_the_users_doing():
    assert [entry.name for entry in default_registry().find("attention", "flash")] == ORDER


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize(
    ("machine", "asked", "code"),
    [
        (Machine(), need("cpu"), "device"),
        (Machine(device="mps"), need("mps"), "device"),
        (HOPPER, need(dtype="fp32"), "dtype"),
        (HOPPER, need(head_dim=512), "head_dim"),
        (HOPPER, need(head_dim=60), "head_dim"),
        (Machine(device="cuda", capability=(7, 5)), need(), "capability"),
    ],
)
def test_what_flash_attention_cannot_do_is_a_reason_before_what_would_have_to_be_installed(name, machine, asked, code):
    (entry,) = default_registry().find("attention", name)
    assert [reason.code for reason in judge(entry, machine, asked)] == [code]


def test_flash_3_is_not_for_blackwell():
    (reason,) = OFFERS["flash-3"].unsupported(Machine(device="cuda", capability=(10, 0)), need())
    assert reason.sentence == "it needs compute capability 9.0, and lower than 10.0, and this GPU has 10.0"


@pytest.mark.skipif(
    any(HOPPER.version(name) for name in ("flash-attn", "flash-attn-4", "fa3-fwd")),
    reason="some of it is installed here",
)
def test_what_is_missing_is_told_with_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    fetching = "python -m dit360_attn_flash.hub"
    told = {}
    for entry in default_registry().find("attention", "flash"):
        (reason,) = judge(entry, HOPPER, need())
        told[entry.name] = (reason.code, reason.hint)
    assert told == {
        "flash-3": ("missing", 'pip install "dit360-attn-flash[fa3]"'),
        "flash-4": ("missing", 'pip install "dit360-attn-flash[fa4]"'),
        "flash-2": ("missing", 'pip install "dit360-attn-flash[fa2]" --no-build-isolation'),
        "flash-hub": ("missing", fetching if HOPPER.version("kernels") else 'pip install "dit360-attn-flash[hub]"'),
        "flash-torch": ("mode", "torch.nn.attention.activate_flash_attention_impl, in your own program"),
    }


# --------------------------------------------------------------------------------------------------- broken libraries

TRY = """
import json, sys
from dit360_core.system.machine import Machine
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.choosing import judge, try_out
from dit360_core.planning.probe import probe_attention
from dit360_core.plugins.registry import default_registry

# Judged as on a GPU, where it would be used, and tried on the CPU.
gpu = AttentionNeed(device="cuda", dtype="bf16", heads=4, head_dim=64, length=300)
cpu = AttentionNeed(device="cpu", dtype="bf16", heads=4, head_dim=64, length=300)
told = {}
for name in json.load(sys.stdin):
    (entry,) = default_registry().find("attention", name)
    reasons = judge(entry, Machine(device="cuda", capability=(9, 0)), gpu)
    if not reasons:
        _, reasons = try_out(entry, Machine(), cpu, lambda offer: offer.load(), probe_attention)
    told[name] = [(reason.code, reason.sentence) for reason in reasons]
json.dump(told, sys.stdout)
"""


def tried(*names, site, cwd):
    done = python(TRY, cwd=cwd, given=json.dumps(names), PYTHONPATH=site)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


BROKEN = ("flash_attn_without_function", "fa3_fwd_nan", "flash_attn_4_wrong_numbers")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What is told of backends whose libraries are installed side by side, each broken in its own way."""
    site = install(tmp_path_factory.mktemp("site"), *BROKEN, source=LIBRARIES)
    return tried("flash-2", "flash-3", "flash-4", site=site, cwd=site)


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("flash-2", "import_failed", "flash_attn has no flash_attn_func"),
        ("flash-3", "probe_failed", "its result holds numbers that are not finite"),
        ("flash-4", "probe_failed", "its result is off by"),
    ],
)
def test_a_library_that_is_broken_is_a_reason(broken, name, code, sentence):
    ((told, why),) = broken[name]
    assert told == code
    assert sentence in why


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build the broken extension with")
def test_a_binary_with_an_undefined_symbol_is_a_reason(tmp_path):
    site = install(tmp_path / "site", "flash_attn_undefined_symbol", source=LIBRARIES)
    source = LIBRARIES / "flash_attn_undefined_symbol" / "extension.c"
    built = site / "flash_attn" / f"flash_attn_2_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = sysconfig.get_paths()["include"]
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{headers}", str(source), "-o", str(built)], check=True)
    ((code, why),) = tried("flash-2", site=site, cwd=tmp_path)["flash-2"]
    assert code == "import_failed"
    assert "undefined symbol: _ZN3c104cuda9SetDeviceEa" in why


def test_a_library_that_computes_attention_is_used(tmp_path):
    site = install(tmp_path / "site", "flash_attn_on_cpu", source=LIBRARIES)
    assert tried("flash-2", site=site, cwd=tmp_path) == {"flash-2": []}


# ------------------------------------------------------------------------------------------------------- the Hub's


def test_hub_kernels_fit_the_gpu_they_are_for():
    assert [kernel.repository for kernel in hub.fitting((9, 0))] == [
        "kernels-community/flash-attn3",
        "kernels-community/flash-attn2",
    ]
    assert [kernel.repository for kernel in hub.fitting((8, 6))] == ["kernels-community/flash-attn2"]


def in_cache(cache, *, version):
    """What the download of a kernel leaves, with one build for every PyTorch."""
    snapshots = cache / "kernels--kernels-community--flash-attn2" / "snapshots"
    build = snapshots / f"commit-of-{version}" / "build" / "torch-universal"
    build.mkdir(parents=True)
    shutil.copy(LIBRARIES / "flash_attn_on_cpu" / "flash_attn" / "__init__.py", build)
    about = {"name": "flash-attn2", "id": f"_flash_attn2_{version}", "version": version, "license": "BSD-3-Clause"}
    about |= {"python-depends": [], "backend": {"type": "cpu"}}
    (build / "metadata.json").write_text(json.dumps(about))


def test_a_kernel_that_is_not_downloaded_is_told_with_the_command_that_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path))
    machine = Machine(device="cuda", capability=(8, 9), versions={"kernels": "0.17.2"})
    (entry,) = default_registry().find("attention", "flash-hub")
    (reason,) = judge(entry, machine, need())
    assert reason.sentence == "kernels-community/flash-attn2 is not downloaded"
    assert reason.hint == "python -m dit360_attn_flash.hub"
    in_cache(tmp_path, version=2)
    assert judge(entry, machine, need()) == (reason,), "another version's programming interface"
    in_cache(tmp_path, version=3)
    assert judge(entry, machine, need()) == ()


LOAD = """
from dit360_attn_flash.kernels import flash_hub
from dit360_core.system.machine import Machine
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.planning.probe import probe_attention

need = AttentionNeed(device="cpu", dtype="bf16", heads=2, head_dim=64, length=100)
print(list(probe_attention(flash_hub(), Machine(), need)))
"""


@pytest.mark.skipif(importlib.util.find_spec("kernels") is None, reason="the package kernels is not installed here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the build in this cache is one for CPUs")
def test_a_kernel_in_the_cache_is_loaded_without_asking_the_network(tmp_path):
    """By the real package kernels, from a cache as its download leaves it, with the network allowed and not there."""
    in_cache(tmp_path, version=3)
    done = python(LOAD, cwd=tmp_path, KERNELS_CACHE=tmp_path, HF_HUB_OFFLINE=0, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here, and this would download")
def test_the_download_says_what_it_lacks_and_ends_with_two(tmp_path):
    done = python("import sys; from dit360_attn_flash.hub import main; sys.exit(main())", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not installed: pip install" in done.stderr or "needs a CUDA device" in done.stderr


# ------------------------------------------------------------------------------------------------ PyTorch's registry


def test_what_a_program_activated_in_pytorch_is_what_flash_torch_uses():
    from torch.nn import attention

    class Handle:
        def remove(self):
            pass

    if not hasattr(attention, "register_flash_attention_impl"):
        pytest.skip("this PyTorch has no way to activate another FlashAttention")
    attention.register_flash_attention_impl("dit360-test", register_fn=Handle)
    assert [reason.code for reason in OFFERS["flash-torch"].unsupported(HOPPER, need())] == ["mode"]
    attention.activate_flash_attention_impl("dit360-test")
    try:
        assert active_in_torch() == "dit360-test"
        assert not list(OFFERS["flash-torch"].unsupported(HOPPER, need()))
    finally:
        attention.restore_flash_attention_impl()
