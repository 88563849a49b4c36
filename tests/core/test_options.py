"""Every option by itself and against the others: types, bounds, choices, sizes, and its flag on the command line."""

import math
import re

import attrs
import pytest
import typer
from dit360_core.cli import app
from dit360_core.errors import InputError
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build, check_size, flag, options_of
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES = (LoadOptions, SampleOptions, DecodeOptions)
OPTIONS = [(cls, option) for cls in CLASSES for option in options_of(cls).values()]
NAMED = [f"{cls.__name__}.{option.name}" for cls, option in OPTIONS]

WRONG = {
    str: (3, True, b"text", ["text"]),
    int: ("3", 1.5, 3.0, True),
    float: ("0.5", True, math.nan, math.inf, -math.inf),
    bool: (1, 0, "yes"),
    tuple: (3, True, b"text", {"a": 1.0}),
}


def made(cls, **given):
    return cls(**({"prompt": "a castle", **given} if cls is SampleOptions else given))


def limited(*limits):
    return [
        pytest.param(cls, option, id=name)
        for (cls, option), name in zip(OPTIONS, NAMED, strict=True)
        if all(getattr(option, limit) is not None for limit in limits)
    ]


def test_the_defaults_are_valid():
    for cls in CLASSES:
        made(cls)


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=NAMED)
def test_an_option_has_one_sentence_of_help(cls, option):
    assert re.fullmatch(r"[A-Z][^\n]+\.", option.help)


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=NAMED)
def test_a_value_of_a_wrong_type_is_refused_by_the_options_name(cls, option):
    # Gibibytes may be numbers, too.
    numbers = option.name in ("vram", "ram")
    for value in (value for value in WRONG[option.kind] if not (numbers and isinstance(value, int | float))):
        with pytest.raises(InputError, match=f"^{option.name} must be .*{re.escape(repr(value))}"):
            made(cls, **{option.name: value})


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=NAMED)
def test_none_is_taken_only_where_it_is_the_default(cls, option):
    if option.default in (None, ()):
        assert getattr(made(cls, **{option.name: None}), option.name) == option.default
        return
    with pytest.raises(InputError, match=f"^{option.name} must not be None") as refused:
        made(cls, **{option.name: None})
    assert "NOTHING" not in str(refused.value)


@pytest.mark.parametrize(("cls", "option"), limited("minimum"))
def test_the_least_value_is_taken_and_less_is_refused(cls, option):
    least = option.minimum
    assert getattr(made(cls, **{option.name: least}), option.name) == least
    less = least - (1 if option.kind is int else 1e-6)
    with pytest.raises(InputError, match=f"^{option.name} is .*{re.escape(str(least))}"):
        made(cls, **{option.name: less})


@pytest.mark.parametrize(("cls", "option"), limited("maximum"))
def test_the_greatest_value_is_taken_and_more_is_refused(cls, option):
    greatest = option.maximum
    assert getattr(made(cls, **{option.name: greatest}), option.name) == greatest
    more = greatest + (1 if option.kind is int else 1e-6)
    with pytest.raises(InputError, match=f"^{option.name} is .*{re.escape(str(greatest))}"):
        made(cls, **{option.name: more})


@pytest.mark.parametrize(("cls", "option"), limited("choices"))
def test_every_choice_is_taken_and_another_is_refused_with_all_of_them(cls, option):
    for choice in option.choices:
        assert getattr(made(cls, **{option.name: choice}), option.name) == choice
    with pytest.raises(InputError, match=re.escape(", ".join(option.choices))):
        made(cls, **{option.name: "something-else"})


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=NAMED)
def test_an_option_whose_default_is_none_says_what_that_means(cls, option):
    assert (option.default in (None, ())) == bool(option.unset)


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


@pytest.mark.parametrize(("cls", "option"), OPTIONS, ids=NAMED)
def test_an_option_is_a_flag_of_generate_with_the_same_default(cls, option):
    once = cls is SampleOptions and option.name in ("attention_backend", "attention_slice_size")
    generate = typer.main.get_command(app).commands["generate"]
    (parameter,) = (p for p in generate.params if p.name == option.name)
    if option.name == "prompt":
        assert not parameter.required  # --like brings one
    elif not once:  # one command makes one picture: the loader's flag of that name is the only one
        assert parameter.opts == [flag(option.name)]
        assert (parameter.default or ()) == () if option.default == () else parameter.default == option.default
