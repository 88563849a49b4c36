"""Who asks for a backend that is not installed is told the extra that brings it, and no other command."""

import re
from importlib import metadata

import pytest
from dit360_core.errors import UnknownName
from dit360_core.plugins.entries import CORE
from dit360_core.plugins.extras import PREFIXES, extra_with
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.registry import Registry, default_registry
from invented_plugins import attention, installed, offering, quantizer
from packaging.requirements import Requirement

INVENTED = "invented-core"
LINES = """Metadata-Version: 2.4
Name: invented-core
Version: 1
Provides-Extra: fast
Provides-Extra: Very_Fast
Provides-Extra: wide
Provides-Extra: both
Provides-Extra: ray
Provides-Extra: none
Provides-Extra: elsewhere
Requires-Dist: attrs
Requires-Dist: dit360-attn-always
Requires-Dist: dit360-attn-fast[kernel]>=1; extra == "fast"
Requires-Dist: dit360_Attn_Very.Fast; python_version > "3" and extra == "very-fast"
Requires-Dist: dit360-tile-wide; extra == 'wide'
Requires-Dist: dit360-attn-fast; extra == "both"
Requires-Dist: dit360-tile-wide; extra == "both"
Requires-Dist: ray>=2; extra == "ray"
Requires-Dist: dit360-attn-elsewhere; python_version < "3" and extra == "elsewhere"
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Installs a distribution's metadata, as bytes, where Python looks first."""

    def write(text, name=INVENTED):
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        if text is not None:
            (folder / "METADATA").write_bytes(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("kind", "name", "extra"),
    [
        ("attention", "fast", "fast"),
        ("attention", "fast-2", "fast"),
        ("attention", "torch-fast", "fast"),
        ("attention", "very-fast", "very-fast"),
        ("attention", "very_fast", "very-fast"),
        ("tiling", "wide", "wide"),
        # of another kind, or of several
        ("tiling", "fast", None),
        ("attention", "wide", None),
        ("attention", "both", None),
        # no backend, nothing at all, or nothing on this machine
        ("attention", "ray", None),
        ("attention", "none", None),
        ("attention", "elsewhere", None),
        # needed without any extra; a part of a word; somebody's address; no kind of offer
        ("attention", "always", None),
        ("attention", "faster", None),
        ("attention", "somebody-fast-kit:mine", None),
        ("attention", "somebody:fast", None),
        ("engine", "fast", None),
        ("attention", "..", None),
    ],
)
def test_an_extra_is_called_as_the_offer_or_a_part_of_its_name(written, kind, name, extra):
    written(LINES.encode())
    assert extra_with(kind, name, core=INVENTED) == extra


def test_an_extra_that_brings_nothing_new_is_not_told(written):
    written(LINES.encode())
    assert extra_with("attention", "fast-9", core=INVENTED, here={"dit360-attn-other"}) == "fast"
    assert extra_with("attention", "fast-9", core=INVENTED, here={"dit360-attn-fast"}) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"\xff\xfe\x00",
        b"Provides-Extra: fast",
        LINES.encode().replace(b"Requires-Dist: dit360-attn-fast[kernel]>=1; ", b"Requires-Dist: ;;;[ "),
        LINES.encode().replace(b'>=1; extra == "fast"', b'>=1; nonsense ~= "fast"'),
        LINES.encode().replace(b'>=1; extra == "fast"', b'>=1; platform_release ~= "x" and extra == "fast"'),
    ],
    ids=["no file", "nothing", "no text", "no requirement", "a broken requirement", "a broken marker", "no comparison"],
)
def test_metadata_that_are_odd_name_no_extra_and_raise_nothing(written, text):
    written(text)
    assert extra_with("attention", "fast", core=INVENTED) is None


def test_one_broken_line_leaves_the_others(written):
    written(LINES.encode() + b"Requires-Dist: ;;;[\n")
    assert extra_with("attention", "fast", core=INVENTED) == "fast"


def test_a_core_that_is_not_installed_has_no_extras():
    assert extra_with("attention", "fast", core="surely-not-installed") is None


def test_every_kind_of_offer_has_a_name_for_its_distributions():
    assert list(PREFIXES) == list(KINDS)


def test_every_offer_of_our_plugins_that_are_installed_is_found_under_its_extra():
    """All names by which they are asked for; so an offer with a new name needs an extra of the core."""
    needed = [Requirement(line) for line in metadata.requires(CORE) or ()]
    asked = [
        (kind, name, entry.distribution)
        for kind in KINDS
        for entry in default_registry().entries(kind)
        for name in {entry.name, entry.family} - {""}
        if entry.distribution.startswith("dit360-") and entry.distribution != CORE
    ]
    if not asked:
        pytest.skip("none of them is installed")
    for kind, name, distribution in asked:
        extra = extra_with(kind, name, core=CORE)
        assert extra is not None, name
        brought = {each.name for each in needed if each.marker and each.marker.evaluate({"extra": extra})}
        assert distribution in brought, name


# ----------------------------------------------------------------------------------------------------- the sentence


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (
            "attention",
            "flash",
            "The attention backend 'flash' is not installed; it comes with: pip install \"dit360-core[flash]\".",
        ),
        ("attention", "flash-3", 'comes with: pip install "dit360-core[flash]".'),
        ("attention", "xformers", 'comes with: pip install "dit360-core[xformers]".'),
        ("quantization", "INT4", 'comes with: pip install "dit360-core[int4]".'),
        ("quantization", "int4-double", 'comes with: pip install "dit360-core[int4]".'),
        ("quantization", "int8-bnb", 'comes with: pip install "dit360-core[bnb]".'),
        ("scheduler", "ddim", 'comes with: pip install "dit360-core[ddim]".'),
    ],
)
def test_a_backend_of_an_extra_is_told_with_the_command(kind, name, told):
    with pytest.raises(UnknownName, match=re.escape(told)):
        Registry(entry_points=[]).find(kind, name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("attention", "all"), ("attention", "comfy"), ("attention", "ray"), ("scheduler", "flash"), ("model", "ddim")],
)
def test_an_extra_that_brings_no_such_backend_is_never_told(kind, name):
    with pytest.raises(UnknownName, match="There is no") as raised:
        Registry(entry_points=[]).find(kind, name)
    assert "pip install" not in str(raised.value)


def test_what_another_program_calls_so_is_explained_before_an_extra_is_told():
    with pytest.raises(UnknownName, match="of bitsandbytes there are int4"):
        Registry(entry_points=[]).find("quantization", "bnb")


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (offering(quantizer("int4")), "did you mean int4"),
        ("no_such_module", re.escape("These plugins failed: dit360-quant-bnb 1.0.")),
    ],
    ids=["it works", "it failed"],
)
def test_a_plugin_that_is_installed_is_not_to_be_installed(plugin, told):
    registry = Registry(entry_points=installed("dit360-quant-bnb", plugin))
    with pytest.raises(UnknownName, match=told) as raised:
        registry.find("quantization", "int4-duoble")
    assert "pip install" not in str(raised.value)


def test_a_plugin_that_is_switched_off_is_not_to_be_installed(monkeypatch):
    monkeypatch.setenv("DIT360_DISABLED_PLUGINS", "dit360-attn-flash")
    registry = Registry(entry_points=installed("dit360-attn-flash", offering(attention("flash-2"))))
    with pytest.raises(UnknownName, match="There is no attention backend named 'flash-2'"):
        registry.find("attention", "flash-2")
