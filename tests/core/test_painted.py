"""A picture that shows nothing is never saved as if it were one."""

import logging

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core import errors
from dit360_core.errors import InputError
from dit360_core.pipeline.blank import check_painted, guidance_notes
from dit360_core.planning.guidance import Guided
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry
from invented_plugins import installed, offering

MODEL = Model(name="some", api=1, base="x", width=64, height=32, guidance_range=(1.0, 8.0))
SAMPLED = {"prompt": "a castle", "used": {"guidance": 3.0, "true_guidance": 1.0}}


def plain(*colour):
    return torch.tensor(colour).view(1, 3, 1, 1).repeat(1, 1, 32, 64)


@pytest.mark.parametrize(
    ("colour", "called"), [((0, 0, 0), "black"), ((1, 1, 1), "white"), ((0.2, 0.5, 1), "one colo")]
)
def test_a_picture_of_one_colour_is_an_error_that_says_what_to_do(colour, called):
    noise = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) / 255
    with pytest.raises(
        dit360.Dit360Error, match=rf"is {called}.* all over, so nothing was painted; try another precis"
    ):
        check_painted((plain(*map(float, colour)) + noise).clamp(0, 1), SAMPLED, MODEL)
    check_painted(plain(0.0, 0.0, 0.0), {}, MODEL)  # latents of somebody else's may be anything


def test_a_picture_of_night_is_none_and_one_that_is_nearly_black_is_warned_of(caplog):
    night = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 0.05
    check_painted(night, SAMPLED, MODEL)
    assert caplog.messages == []
    night[..., 1:, :] = 0
    too_much = {**SAMPLED, "used": {"guidance": 20.0, "true_guidance": 12.0}}
    check_painted(night, too_much, MODEL)
    [told] = caplog.messages
    assert "of the picture is plain black or white" in told
    assert "use guidance=1 … 8 and true_guidance up to 10" in told


def noted(guidance, true):
    return [*guidance_notes(MODEL, Guided(number=guidance, embedded=guidance, true=true, away=true > 1))]


def test_guidance_beyond_a_models_range_is_told_with_that_range():
    assert noted(8.0, 10.0) == noted(None, 1.0) == []
    [told] = noted(8.1, 1.0)
    assert "guidance is 8.1, and this model paints well at 1 … 8" in errors.plain(told)
    assert noted(0.0, 1.0)
    [told] = noted(3.0, 11.0)
    assert "true_guidance is 11" in errors.plain(told)


def test_a_picture_is_painted_with_too_much_guidance_and_that_is_told(tiny, caplog):
    with caplog.at_level(logging.WARNING, "dit360"):
        tiny.generate("a castle by the sea", guidance=100, width=128, seed=7, steps=2)
    assert any("guidance is 100, and this model paints well at 1 … 8" in told for told in caplog.messages)


def test_no_black_picture_of_a_model_is_returned(tiny):
    """Whose latents lie as far out as those of a denoiser that went astray; the first one is brightness."""
    made = tiny.sample(tiny.encode("a castle by the sea"), width=128, steps=1, seed=7)
    dark = torch.zeros_like(made.tensor)
    dark[:, 0] = -40
    with pytest.raises(dit360.Dit360Error, match=r"is black all over, so nothing was painted"):
        tiny.decode(attrs.evolve(made, tensor=dark))


WRONG = {"width": -64, "height": 2**20, "steps": 10**9, "guidance": -1.0, "circular_padding": -3,
         "prompt_prefix": "x" * 10_000_000, "guidance_range": (5.0, 2.0)}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_plugins_model_whose_defaults_nobody_could_ask_for_is_its_failure(field):
    registry = Registry(entry_points=installed("odd", offering(attrs.evolve(MODEL, **{field: WRONG[field]}))))
    with pytest.raises(InputError):
        registry.find("model", "some")
    [failure] = registry.failures
    assert "The model's own" in str(failure)
    assert len(str(failure)) < 2000
