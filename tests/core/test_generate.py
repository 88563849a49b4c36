"""The embedded model from prompt to file, through the public Python interface."""

import inspect
import logging
import statistics

import attrs
import dit360_core as dit360
import numpy as np
import pytest
import torch
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.pipeline.state import State
from dit360_core.plugins.builtin.tiling_others import Whole
from dit360_core.plugins.offers import TilingSettings
from random_models import random_conditioning, random_flux

SMALL = {"width": 128, "height": 64, "steps": 2}

PROMPTS = (
    "a castle above a meadow at sunset",
    "a calm sea under a starry night sky",
    "snowy mountains at noon",
    "a desert at dawn",
)


def test_same_seed_same_picture_bit_for_bit(tiny):
    first, second, other = (tiny.generate("a calm sea", seed=seed, **SMALL) for seed in (3, 3, 4))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_a_drawn_seed_is_told_and_repeats_the_picture(tiny):
    first = tiny.generate("a calm sea", **SMALL)
    again = tiny.generate("a calm sea", seed=first.settings["used"]["seed"], **SMALL)
    assert first.image.tobytes() == again.image.tobytes()


def test_the_stages_one_by_one_are_generate(tiny):
    conditioning = tiny.encode("a calm sea")
    latents = tiny.sample(conditioning, seed=3, **SMALL)
    assert latents.tensor.shape == (1, 32, 8, 16)
    assert (latents.width, latents.height) == (128, 64)
    panorama = tiny.decode(latents)
    whole = tiny.generate("a calm sea", seed=3, **SMALL)
    assert panorama.image.tobytes() == whole.image.tobytes()
    assert panorama.settings == whole.settings


def test_true_guidance_reads_the_negative_prompt(tiny):
    plain = tiny.generate("a calm sea", seed=3, **SMALL)
    empty = tiny.generate("a calm sea", seed=3, true_guidance=4.0, **SMALL)
    against = tiny.generate("a calm sea", seed=3, true_guidance=4.0, negative_prompt="a desert", **SMALL)
    pictures = {p.image.tobytes() for p in (plain, empty, against)}
    assert len(pictures) == 3
    staged = tiny.sample(tiny.encode("a calm sea", negative_prompt="a desert"), seed=3, true_guidance=4.0, **SMALL)
    assert tiny.decode(staged).image.tobytes() == against.image.tobytes()


def test_guidance_changes_the_picture(tiny):
    low, high = (tiny.generate("a calm sea", seed=3, guidance=g, **SMALL) for g in (1.0, 5.0))
    assert low.image.tobytes() != high.image.tobytes()


def test_latents_can_be_given(tiny):
    noise = torch.randn(1, 32, 8, 16, generator=torch.Generator().manual_seed(3))
    given = tiny.generate("a calm sea", latents=noise, **SMALL)
    seeded = tiny.generate("a calm sea", seed=3, **SMALL)
    assert given.image.tobytes() == seeded.image.tobytes()
    assert given.settings["used"]["seed"] is None
    with pytest.raises(dit360.InputError, match="shape"):
        tiny.generate("a calm sea", latents=noise[..., :8], **SMALL)


def test_width_or_height_alone_give_the_other(tiny):
    assert tiny.generate("x", width=128, steps=1).size == (128, 64)
    assert tiny.generate("x", height=32, steps=1).size == (64, 32)


def test_progress_counts_the_steps(tiny):
    seen = []
    tiny.generate("x", progress=lambda done, steps: seen.append((done, steps)), **SMALL)
    assert seen == [(1, 2), (2, 2)]


def test_settings_tell_what_was_asked_and_what_was_used(tiny, tmp_path):
    panorama = tiny.generate("ein Schloß ✨", seed=3, attention_backend="eager", **SMALL)
    opened = dit360.Panorama.open(panorama.save(tmp_path / "x.png"))
    assert opened.settings == panorama.settings
    assert opened.settings["prompt"] == "ein Schloß ✨"
    requested, used = opened.settings["requested"], opened.settings["used"]
    assert requested["attention_backend"] == "eager"
    assert "scheduler_type" not in requested  # defaults are not what somebody asked for
    assert used["attention"]["used"] == "eager"
    assert used["scheduler"]["used"] == "flow_match"
    assert (used["tiling"]["used"], used["tiling"]["level"], used["tiling"]["tiles"]) == ("exact", "whole", 1)
    assert (used["width"], used["height"], used["steps"], used["seed"]) == (128, 64, 2, 3)
    assert used["precision"] == "fp32"
    assert {"torch", "diffusers", "dit360-core"} <= set(opened.settings["versions"])


@pytest.mark.parametrize(
    "prompt", ["A CASTLE AT SUNSET", "🏰🌅", "castel abov medow sunst", "word " * 300, "x", "夕日の城", "a\n\nb\t\x00c"]
)
def test_no_prompt_crashes(tiny, prompt):
    assert tiny.generate(prompt, seed=1, width=64, steps=1).size == (64, 32)


def test_a_prompt_that_is_cut_is_told(tiny, caplog):
    with caplog.at_level(logging.WARNING, "dit360"):
        tiny.encode("mountain " * 300)
    assert "only" in caplog.text
    assert "ignored" in caplog.text


def test_an_unknown_option_names_the_nearest(tiny):
    with pytest.raises(dit360.InputError, match="guidance"):
        tiny.generate("x", guidence=3.0)
    with pytest.raises(dit360.InputError, match="tiling_mode"):
        tiny.generate("x", tiling_mod="never")


def test_what_decoding_cannot_do_is_told_before_sampling(tiny):
    steps = []
    with pytest.raises(dit360.BackendUnavailable, match="tiling_mode=always"):
        tiny.generate("x", tiling_mode="always", tiling_backend="whole", progress=lambda *a: steps.append(a), **SMALL)
    assert not steps


def test_guidance_is_refused_where_it_does_nothing():
    pipeline = Pipeline.from_diffusers(random_flux(guidance_embeds=False))
    with pytest.raises(dit360.InputError, match="true_guidance"):
        pipeline.sample(random_conditioning(), guidance=3.0, **SMALL)


def test_true_guidance_without_a_negative_prompt_is_refused():
    pipeline = Pipeline.from_diffusers(random_flux())
    with pytest.raises(dit360.InputError, match="negative"):
        pipeline.sample(random_conditioning(), true_guidance=3.0, **SMALL)


def test_the_prompt_prefix_of_a_model_is_put_before_once(tiny):
    model = attrs.evolve(tiny.plan.model, prompt_prefix="This is a panorama. ")
    state = State(plan=attrs.evolve(tiny.plan, model=model))
    prefixed = Pipeline(attrs.evolve(tiny._loaded, state=state))
    by_model = prefixed.encode("A sea.")
    by_hand = prefixed.encode("This is a panorama. A sea.")
    assert torch.equal(by_model.positive.tokens, by_hand.positive.tokens)
    assert not torch.equal(by_model.positive.tokens, tiny.encode("A sea.").positive.tokens)


def test_not_finite_latents_are_an_error_not_a_black_picture():
    pipe = random_flux()
    torch.nn.init.constant_(pipe.transformer.proj_out.bias, float("nan"))
    with pytest.raises(dit360.Dit360Error, match="not finite"):
        Pipeline.from_diffusers(pipe).sample(random_conditioning(), **SMALL)
    pipe = random_flux()
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(dit360.Dit360Error, match="not finite"):
        Pipeline.from_diffusers(pipe).decode(torch.zeros(1, 16, 4, 8))


def test_signatures_are_those_of_the_option_classes():
    signature = inspect.signature(Pipeline.generate)
    fields = [*attrs.fields(dit360.SampleOptions), *attrs.fields(dit360.DecodeOptions)]
    assert {f.name for f in fields} <= set(signature.parameters)
    assert signature.parameters["scheduler_type"].default == "flow_match"
    assert "guidance" in (Pipeline.generate.__doc__ or "")
    assert {f.name for f in attrs.fields(dit360.LoadOptions)} <= set(inspect.signature(dit360.load).parameters)


def test_a_scheduler_that_returns_nonsense_is_told(tiny):
    from dit360_core.plugins.builtin import PLUGINS
    from dit360_core.plugins.hookspecs import hookimpl
    from dit360_core.plugins.offers import Scheduler
    from dit360_core.plugins.registry import Registry

    class Rising:
        def __init__(self, settings):
            pass

        def sigmas(self, steps, tokens):
            return [i / steps for i in range(steps + 1)]

    class Plugin:
        __name__ = "rising"

        @hookimpl
        def dit360_schedulers(self):
            return [Scheduler(name="rising", api=1, load=Rising)]

    registry = Registry(builtin=(*PLUGINS, Plugin()), entry_points=())
    pipeline = Pipeline(attrs.evolve(tiny._loaded, registry=registry))
    with pytest.raises(dit360.Dit360Error, match="rising"):
        pipeline.generate("x", scheduler_type="rising", **SMALL)


def test_encoding_a_picture_and_decoding_it_gives_it_back(tiny):
    """The autoencoder's own way round, through the engine's scaling."""
    panorama = tiny.generate(PROMPTS[0], seed=1, width=256, steps=4)
    latents = tiny.sample(tiny.encode(PROMPTS[0]), seed=1, width=256, steps=4)
    whole = Whole(TilingSettings())
    pixels = tiny.engine.decode(latents.tensor, whole)
    again = tiny.engine.decode(tiny.engine.encode(pixels, whole), whole)
    assert panorama.size == (256, 128)
    assert (again - pixels).pow(2).mean() < 0.01


def test_eight_panoramas_close_without_a_seam(tiny):
    """Mean seam ratio 0.8 … 1.25: the step across the meridian is like any other step between neighbours."""
    made = [tiny.generate(prompt, seed=seed, width=256, steps=4) for prompt in PROMPTS for seed in range(2)]
    ratios = [panorama.seam.ratio for panorama in made]
    assert 0.8 <= statistics.mean(ratios) <= 1.25, ratios


def test_position_interpolation_matters_at_other_sizes_than_the_native_one_only(tiny):
    """At 512×256 the ids are those of FLUX; at 256×128 plain ids would paint a quarter of the sphere: all sky."""
    native = [tiny.generate("a calm sea", seed=3, steps=2, position_interpolation=on) for on in (False, True)]
    assert native[0].image.tobytes() == native[1].image.tobytes()
    quarter, whole = (
        tiny.generate("a green meadow at noon", seed=3, width=256, steps=8, position_interpolation=on)
        for on in (False, True)
    )

    def greener_below(panorama):
        above, below = np.asarray(panorama.image, dtype=float).reshape(2, -1, 3).mean(1)
        return (below[1] - below[2]) - (above[1] - above[2])

    assert greener_below(whole) > greener_below(quarter) + 20
    assert whole.settings["used"]["position_interpolation"] is True
    assert quarter.settings["requested"]["position_interpolation"] is False


def test_a_model_folder_is_loaded_like_a_named_model(tiny, tiny_copy):
    """The embedded model is nothing special: its folder, given by path, paints the same picture."""
    from_folder = dit360.load(str(tiny_copy), precision="fp32")
    picture = {"prompt": "a calm sea", "seed": 3, "guidance": 2.0, "latent_rotation": True, "width": 512, "steps": 2}
    picture["cube_consistency"] = 0.0
    named, given = (p.generate(**picture) for p in (tiny, from_folder))
    assert named.image.tobytes() == given.image.tobytes()
