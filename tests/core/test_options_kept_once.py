"""What is known of an option is written down once: no surface reads an annotation, or names what it can ask for."""

import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import attrs
import dit360_core as dit360
import pytest
import typer
from dit360_core.cli import app
from dit360_core.models.families import architecture_of
from dit360_core.options import (
    QUANTIZE_OPTIONS,
    REPLACING,
    DecodeOptions,
    LoadOptions,
    SampleOptions,
    flag,
    option,
    options_of,
)

CLASSES = (LoadOptions, SampleOptions, DecodeOptions)
CORE = Path(dit360.__file__).parent


def sources():
    """Every file of Python that is ours: the packages that are installed here, and the tests."""
    packages = [find_spec(name) for name in ("dit360_core", "dit360_comfy")]
    folders = [Path(found.origin).parent for found in packages if found] + [Path(__file__).parents[1]]
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def test_no_source_reads_what_is_known_of_an_option_from_an_annotation_or_a_fields_metadata():
    # Of the contract for plugins the page shows the annotations themselves.
    shown = ("test_plugin_docs.py", Path(__file__).name)
    reading = re.compile(r"str\([^()]*\b(field|f|attribute|\])\.type\)|\b_?(field|f)\.metadata\b")
    files = [file for file in sources() if file.name not in shown and file != CORE / "options" / "facts.py"]
    assert len(files) > 150
    assert [str(file) for file in files if reading.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("room", ["planning", "pipeline", "batching", "cli"])
def test_no_room_above_the_model_names_a_part_that_an_option_replaces(room):
    files = sorted((CORE / room).rglob("*.py"))
    assert files
    assert [str(file) for file in files if re.search(r"\bt5\b", file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("cls", CLASSES)
def test_none_is_allowed_exactly_where_it_is_the_default(cls):
    known = options_of(cls)
    assert [*known] == [field.name for field in attrs.fields(cls)]
    assert {n for n, one in known.items() if one.optional} == {n for n, one in known.items() if one.default is None}
    # "none" and 0 are values and no None.
    assert any(one.optional for one in known.values()) == (cls is not DecodeOptions)


@pytest.mark.parametrize(
    ("cls", "name", "kind", "optional"),
    [
        (LoadOptions, "lora", tuple, False),
        (LoadOptions, "lora_strength", float, False),
        (LoadOptions, "t5", str, True),
        (LoadOptions, "strict", bool, False),
        (SampleOptions, "steps", int, True),
        (SampleOptions, "guidance", float, True),
        (SampleOptions, "latent_rotation", bool, True),
        (DecodeOptions, "tile_size_override", int, False),
    ],
)
def test_the_kind_of_an_option_is_that_of_its_annotation(cls, name, kind, optional):
    known = options_of(cls)[name]
    assert (known.kind, known.optional) == (kind, optional)


def test_what_is_known_of_options_is_made_once_and_cannot_be_changed():
    assert options_of(LoadOptions) is options_of(LoadOptions)
    with pytest.raises(TypeError):
        options_of(LoadOptions)["vae"] = None
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options_of(LoadOptions)["vae"].default = "other"


def test_an_option_of_a_type_that_no_surface_shows_is_refused():
    @attrs.frozen(kw_only=True)
    class Unshown:
        code: bytes = option(help="Bytes.")

    with pytest.raises(TypeError, match=r"Unshown\.code is declared as"):
        options_of(Unshown)


def test_what_replaces_a_part_of_a_model_is_an_option_and_the_part_one_of_a_diffusers_folder(tiny_folder):
    assert set(REPLACING) == {"transformer", "clip", "vae", "t5", "text_encoder"}
    replaceable = architecture_of(tiny_folder).replaceable
    assert set(replaceable) == set(REPLACING) - {"text_encoder"}  # of models that have one alone
    for part in replaceable.values():
        assert (tiny_folder / part / "config.json").is_file()


def test_quantize_takes_the_options_of_what_is_stored_in_python_and_as_flags():
    own = {"output", "registry", "machine", "progress"}
    assert set(inspect.signature(dit360.quantize).parameters) - own == QUANTIZE_OPTIONS
    flags = {p.name: p for p in typer.main.get_command(app).commands["quantize"].params}
    assert set(flags) - {"output", "verbose"} == QUANTIZE_OPTIONS - {"lora_mode"}
    called = {"quantization_mode": "--mode", "quantization_parts": "--parts", "quantization_skip": "--skip"}
    for name in QUANTIZE_OPTIONS - {"lora_mode", "model"}:
        known = options_of(LoadOptions)[name]
        assert flags[name].opts == [called.get(name, flag(name))]
        assert flags[name].help.startswith(known.help[:20])
        if name == "quantization_mode":
            assert flags[name].required
        else:
            assert (flags[name].default or None) == (known.default or None)
