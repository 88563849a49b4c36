"""The words before a prompt: put there once, whatever the prompt begins with, and others if somebody wants others."""

import pytest
from dit360_core.errors import InputError
from dit360_core.options import SampleOptions
from dit360_core.pipeline.prefix import prefixed, spaced
from dit360_core.plugins.builtin.models import dit360_models

PREFIX = "This is a panorama. The image shows "
THERE = [
    "This is a panorama. The image shows a castle",
    "This is a panorama image. The image depicts a snowy hut",
    "this is a panorama image of a beach",
    "THIS IS A PANORAMA, of a beach",
    "  This  is a\tpanorama: a beach",
    '"This is a panorama. The image shows a beach"',
    "“This is a panorama of a beach”",
    "This is a panorama",
    "\ufeffthis is a panorama\nof a beach",
]
NOT_THERE = ["a castle", "A panorama of a castle", "castle. This is a panorama", "This is a pan on a stove", "panorama"]


def test_dit360_has_that_prefix():
    assert {model.name: model.prompt_prefix for model in dit360_models()}["dit360"] == PREFIX


@pytest.mark.parametrize("prompt", THERE)
def test_a_prompt_that_begins_so_in_any_wording_is_left_as_it_is(prompt):
    assert prefixed(prompt, PREFIX) == (prompt, "")


@pytest.mark.parametrize("prompt", NOT_THERE)
def test_other_prompts_get_it(prompt):
    assert prefixed(prompt, PREFIX) == (PREFIX + prompt, PREFIX)


def test_other_prefixes_are_compared_whole_and_without_regard_to_case():
    assert prefixed("Equirectangular 360 image of a hut", "equirectangular 360 image") == (
        "Equirectangular 360 image of a hut", "")  # fmt: skip
    assert prefixed("equirectangular hut", "equirectangular 360 image ")[1] == "equirectangular 360 image "
    assert prefixed("a hut", "") == ("a hut", "")
    assert spaced("360,") == "360, "
    assert spaced("360 ") == "360 "
    assert spaced("") == ""


@pytest.mark.parametrize("prefix", ["x" * 1001, "\ud800", 7])
def test_a_prefix_that_cannot_be_is_refused(prefix):
    with pytest.raises(InputError, match="prefix"):
        SampleOptions(prompt="a hut", prompt_prefix=prefix)


def test_what_was_put_before_a_prompt_is_read_by_the_model_and_told(tiny):
    small = {"width": 64, "steps": 1, "seed": 1}
    plain = tiny.encode("equirectangular, a castle", prompt_prefix="")
    put = tiny.encode("a castle", prompt_prefix="equirectangular,")
    assert put.positive.tokens.equal(plain.positive.tokens)
    assert (put.prompt, put.prefix, plain.prefix) == ("a castle", "equirectangular, ", "")
    told = tiny.generate("a castle", prompt_prefix="equirectangular,", **small).settings
    assert told["prompt"] == "a castle"
    assert told["requested"]["prompt_prefix"] == "equirectangular,"
    assert told["used"]["prompt_prefix"] == "equirectangular, "
    with pytest.raises(InputError, match="prompt_prefix belongs to encode"):
        tiny.sample(put, prompt_prefix="x", **small)
