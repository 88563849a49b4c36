"""Every option by itself and against the others: types, bounds, choices, sizes, and its flag on the command line."""

import math
import re

import attrs
import pytest
import typer
from dit360_core.cli import app
from dit360_core.errors import InputError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build, check_size, flag
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES = (LoadOptions, SampleOptions, DecodeOptions)
FIELDS = [(cls, field) for cls in CLASSES for field in attrs.fields(cls)]
NAMED = [f"{cls.__name__}.{field.name}" for cls, field in FIELDS]

WRONG = {
    "str": (3, True, b"text", ["text"]),
    "int": ("3", 1.5, 3.0, True),
    "float": ("0.5", True, math.nan, math.inf, -math.inf),
    "bool": (1, 0, "yes"),
    "tuple[str, ...]": (3, True, b"text", {"a": 1.0}),
}


def kind_of(field):
    return str(field.type).removesuffix(" | None")


def made(cls, **given):
    return cls(**({"prompt": "a castle", **given} if cls is SampleOptions else given))


def limited(*limits):
    return [
        pytest.param(cls, field, id=name)
        for (cls, field), name in zip(FIELDS, NAMED, strict=True)
        if all(field.metadata[limit] is not None for limit in limits)
    ]


def test_the_defaults_are_valid():
    for cls in CLASSES:
        made(cls)


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=NAMED)
def test_an_option_has_one_sentence_of_help(cls, field):
    assert re.fullmatch(r"[A-Z][^\n]+\.", field.metadata["help"])


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=NAMED)
def test_a_value_of_a_wrong_type_is_refused_by_the_options_name(cls, field):
    # Gibibytes may be numbers, too.
    numbers = field.name in ("vram", "ram")
    for value in (value for value in WRONG[kind_of(field)] if not (numbers and isinstance(value, int | float))):
        with pytest.raises(InputError, match=f"^{field.name} must be .*{re.escape(repr(value))}"):
            made(cls, **{field.name: value})


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=NAMED)
def test_none_is_taken_only_where_it_is_the_default(cls, field):
    if field.default in (None, ()):
        assert getattr(made(cls, **{field.name: None}), field.name) == field.default
        return
    with pytest.raises(InputError, match=f"^{field.name} must not be None") as refused:
        made(cls, **{field.name: None})
    assert "NOTHING" not in str(refused.value)


@pytest.mark.parametrize(("cls", "field"), limited("minimum"))
def test_the_least_value_is_taken_and_less_is_refused(cls, field):
    least = field.metadata["minimum"]
    assert getattr(made(cls, **{field.name: least}), field.name) == least
    less = least - (1 if kind_of(field) == "int" else 1e-6)
    with pytest.raises(InputError, match=f"^{field.name} is .*{re.escape(str(least))}"):
        made(cls, **{field.name: less})


@pytest.mark.parametrize(("cls", "field"), limited("maximum"))
def test_the_greatest_value_is_taken_and_more_is_refused(cls, field):
    greatest = field.metadata["maximum"]
    assert getattr(made(cls, **{field.name: greatest}), field.name) == greatest
    more = greatest + (1 if kind_of(field) == "int" else 1e-6)
    with pytest.raises(InputError, match=f"^{field.name} is .*{re.escape(str(greatest))}"):
        made(cls, **{field.name: more})


@pytest.mark.parametrize(("cls", "field"), limited("choices"))
def test_every_choice_is_taken_and_another_is_refused_with_all_of_them(cls, field):
    for choice in field.metadata["choices"]:
        assert getattr(made(cls, **{field.name: choice}), field.name) == choice
    with pytest.raises(InputError, match=re.escape(", ".join(field.metadata["choices"]))):
        made(cls, **{field.name: "something-else"})


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=NAMED)
def test_an_option_whose_default_is_none_says_what_that_means(cls, field):
    assert (field.default in (None, ())) == bool(field.metadata["unset"])


def test_options_cannot_be_changed_after_they_were_checked():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        LoadOptions().model = "dit360"


def test_an_unknown_option_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match="no option 'step'; did you mean steps"):
        build(SampleOptions, {"prompt": "a castle", "step": 3})


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(InputError, match="The prompt is empty"):
        SampleOptions(prompt=prompt)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_that_is_no_text_is_refused(name):
    with pytest.raises(InputError, match="no text in UTF-8"):
        made(SampleOptions, true_guidance=4.0, **{name: "castle \udcff"})


def test_a_negative_prompt_without_true_guidance_is_refused():
    with pytest.raises(InputError, match="set true_guidance above 1"):
        SampleOptions(prompt="a castle", negative_prompt="people")
    SampleOptions(prompt="a castle", negative_prompt="people", true_guidance=4.0)
    SampleOptions(prompt="a castle", negative_prompt="")


@settings(deadline=None)  # a busy machine is no error
@given(st.one_of(st.none(), st.integers(16, 4096)), st.one_of(st.none(), st.integers(16, 2048)))
def test_a_size_is_taken_if_it_is_two_to_one_in_sixteens_and_else_a_size_that_is_gets_named(width, height):
    wide = width if width is not None else 2 * height if height is not None else 2048
    high = height if height is not None else wide / 2
    if wide == 2 * high and high % 16 == 0:
        check_size(width, height)
        return
    with pytest.raises(InputError) as refused:
        check_size(width, height)
    named = re.search(r"take (\d+)×(\d+)\.$", str(refused.value))
    near_width, near_height = int(named[1]), int(named[2])
    check_size(near_width, near_height)
    assert abs(near_width - wide) <= 16 or near_width == 32


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=NAMED)
def test_an_option_is_a_flag_of_generate_with_the_same_default(cls, field):
    once = cls is SampleOptions and field.name in ("attention_backend", "attention_slice_size")
    generate = typer.main.get_command(app).commands["generate"]
    (parameter,) = (p for p in generate.params if p.name == field.name)
    if field.name == "prompt":
        assert parameter.required
    elif not once:  # one command makes one picture: the loader's flag of that name is the only one
        assert parameter.opts == [flag(field.name)]
        assert (parameter.default or ()) == () if field.default == () else parameter.default == field.default
