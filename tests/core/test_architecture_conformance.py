"""The core's own family under the tests that plugins inherit; and those tests catch families that are wrong."""

import attrs
import pytest
import torch
from dit360_core.models.architecture import Architecture
from dit360_core.models.flux.architecture import Flux
from dit360_core.models.flux.engine import FluxEngine, FluxVelocity
from dit360_core.models.flux.networks import FluxNetworks
from dit360_core.models.velocity import TokenVelocity
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.plugins.builtin import architectures
from dit360_core.sphere.grid import Grid
from dit360_core.testing import ArchitectureConformance
from dit360_core.testing.families import autoencoders


class OfFlux(ArchitectureConformance):
    module = architectures.__name__

    def offer(self):
        return next(iter(architectures.dit360_architectures()))

    def pipeline(self):
        from diffusers import FluxPipeline

        return FluxPipeline.from_pretrained(EMBEDDED_MODEL)


SHARED = OfFlux()


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    SHARED.teardown_class()


@pytest.mark.long
class TestFlux(OfFlux):
    def model(self):
        return SHARED.model()


# ------------------------------------------------------------------------------------------------- wrong in one thing


def instead(owner, name, make):
    """A patch: what is called ``name`` is made of what it was."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, make(getattr(owner, name)))


def after_init(change):
    """A velocity that is changed after it was made."""

    def make(init):
        def changed(self, *given, **named):
            init(self, *given, **named)
            change(self)

        return changed

    return instead(FluxVelocity, "__init__", make)


def swap_ids(velocity):
    velocity._image_ids = velocity._image_ids[:, [0, 2, 1]]


def count_on(velocity):
    """Pad columns have positions beyond the edges, and not those of the columns that they copy."""
    rows, columns = velocity.grid.rows, velocity.grid.columns + 2 * velocity.grid.padding
    velocity._image_ids = velocity._image_ids.clone()
    velocity._image_ids[:, 2] = torch.arange(columns).repeat(rows) - velocity.grid.padding


def round_ids(velocity):
    velocity._image_ids = velocity._image_ids.to(velocity.engine.dtype).float()


def ignore_the_grid(velocity):
    """Positions of a grid of that size, whatever its order."""
    velocity._image_ids = Grid(velocity.grid.rows, velocity.grid.columns).position_ids()


def turn_guidance_up(velocity):
    velocity._guidance = 1.1 * velocity._guidance


def deaf(evaluate):
    """The kernel of a call, and the bias on its keys, are left out."""
    return lambda self, tokens, sigma, embedding, attention, branch: evaluate(
        self, tokens, sigma, embedding, {}, branch
    )


def late(evaluate):
    return lambda self, tokens, sigma, *rest: evaluate(self, tokens, 0.99 * sigma, *rest)


def rounding(call):
    return lambda self, x, *given: call(self, x, *given).to(torch.bfloat16)


def with_one_more(made):
    def make(self, part, config):
        module = made(self, part, config)
        if part == "transformer":
            module.more = torch.nn.Linear(4096, 64)
        return module

    return make


def evolved(**changes):
    """What a method gives, changed."""
    return lambda method: lambda *given: attrs.evolve(method(*given), **changes)


def nothing(method):
    return lambda *given, **named: None


def q_for_k(target):
    return lambda self, name: target(self, name.replace("to_q", "to_k"))


def with_policy(**changes):
    return instead(FluxNetworks, "policy", evolved(**changes))


def shifted(shift):
    return lambda self, steps: attrs.evolve(shift(self, steps), max_shift=1.16)


def unturned(decode_whole):
    return lambda vae, latents: vae.decode(latents, return_dict=False)[0]


def of_offer(**changes):
    return lambda monkeypatch: monkeypatch.setattr(SHARED.model(), "offer", attrs.evolve(SHARED.offer(), **changes))


def of_blocks(name):
    def patch(monkeypatch):
        changed = [attrs.evolve(part, blocks=(name,)) if part.name == "transformer" else part for part in Flux.parts]
        monkeypatch.setattr(Flux, "parts", tuple(changed))

    return patch


WRONG = {
    "other pipelines": (of_offer(pipelines=("OtherPipeline",)), "its_folders_are_recognised_and_others_are_not"),
    "other transformers": (of_offer(transformers=("Other",)), "its_folders_are_recognised_and_others_are_not"),
    "another title": (of_offer(title="FLUX.3"), "the_offer_is_that_of_its_architecture"),
    "no architecture": (of_offer(load=object), "the_offer_is_that_of_its_architecture"),
    "blocks that are not there": (of_blocks("nobodys_blocks"), "parts_are_those_of_the_pipeline"),
    "blocks that are none": (of_blocks("proj_out"), "parts_are_those_of_the_pipeline"),
    "a part that is not there": (
        lambda monkeypatch: monkeypatch.setattr(Flux, "others", ("tokenizer_3",)), "parts_are_those_of_the_pipeline",
    ),
    "folders unchecked": (instead(Flux, "check_folder", nothing), "damaged_folders_are_told_in_one_sentence"),
    "pipelines unchecked": (instead(FluxNetworks, "check_given", nothing), "a_pipeline_of_others_is_refused"),
    "embeddings unchecked": (
        instead(FluxEngine, "check_embedding", nothing),
        "an_embedding_of_another_model_is_refused",
    ),
    "no usual steps": (instead(Flux, "usual", nothing), "a_model_given_by_its_files_has_usual_steps_and_guidance"),
    "another length": (
        instead(FluxNetworks, "prompt_tokens_of", lambda _: lambda self, pipe: 77), "the_prompt_is_as_long_as_planned",
    ),
    "another noise": (
        instead(FluxEngine, "noise", lambda noise: lambda self, *given: noise(self, *given).flip(1)),
        "the_noise_of_a_seed_is_that_of_diffusers",
    ),
    "another shift": (instead(FluxEngine, "shift", shifted), "the_noise_levels_are_those_of_diffusers"),
    "swapped ids": (after_init(swap_ids), "one_evaluation_is_that_of_diffusers"),
    "another time": (instead(FluxVelocity, "evaluate", late), "one_evaluation_is_that_of_diffusers"),
    "another guidance": (after_init(turn_guidance_up), "latents_are_those_of_diffusers"),
    "no guidance": (instead(FluxVelocity, "evaluate", late), "latents_are_those_of_diffusers_in_double_precision"),
    "pads with positions of their own": (after_init(count_on), "pad_columns_are_copies_by_hand_and_by_bias"),
    "a bias that is left out": (instead(FluxVelocity, "evaluate", deaf), "pad_columns_are_copies_by_hand_and_by_bias"),
    "positions in another order": (after_init(ignore_the_grid), "permuted_columns_give_the_permuted_velocity"),
    "turned too far": (
        instead(FluxEngine, "turn", lambda turn: lambda self, x, grid, columns: turn(self, x, grid, columns + 1)),
        "turning_is_undone_by_turning_back",
    ),
    "a kernel that is left out": (instead(FluxVelocity, "evaluate", deaf), "all_attention_goes_through_the_kernel"),
    "other heads": (instead(Flux, "facts_of", evolved(heads=7)), "all_attention_goes_through_the_kernel"),
    "a velocity that is rounded": (
        instead(TokenVelocity, "__call__", rounding), "every_dtype_gives_numbers_in_the_dtype_that_is_asked_for",
    ),
    "positions that are rounded": (after_init(round_ids), "positions_are_not_rounded_in_bf16"),
    "latents as they are": (
        instead(FluxEngine, "to_stored", lambda _: lambda self, latents: latents),
        "latents_are_stored_as_diffusers_gives_them_to_the_autoencoder",
    ),
    "no way back": (
        instead(FluxEngine, "from_stored", lambda _: lambda self, latents: latents),
        "latents_are_stored_as_diffusers_gives_them_to_the_autoencoder",
    ),
    "an autoencoder with an edge": (
        instead(autoencoders, "decode_whole", unturned),
        "rolled_latents_are_a_rolled_picture",
    ),
    "tiles that do not wrap": (instead(autoencoders, "decode_whole", unturned), "exact_tiles_are_the_whole_picture"),
    "a black preview": (
        instead(FluxEngine, "latent_to_rgb", lambda _: lambda self: torch.zeros(17, 3)),
        "a_preview_has_a_colour_for_every_latent",
    ),
    "q for k": (instead(Flux, "target", q_for_k), "every_layer_of_a_block_is_a_target_under_its_own_name"),
    "no layers of LoRAs": (instead(Flux, "target", nothing), "every_layer_of_a_block_is_a_target_under_its_own_name"),
    "a layer that no policy can leave": (
        with_policy(left={"nobodys": "it is not there"}),
        "every_layer_that_a_policy_names_is_there",
    ),
    "layers left without a reason": (with_policy(left={"proj_out": ""}), "every_layer_that_a_policy_names_is_there"),
    "tokens that are one": (with_policy(one_token=("*",)), "layers_of_one_token_see_one_token"),
    "one token that is many": (with_policy(one_token=()), "layers_of_one_token_see_one_token"),
    "more weights than planned": (instead(FluxNetworks, "made", with_one_more), "weights_weigh_what_is_planned"),
    "half an evaluation": (
        instead(FluxNetworks, "denoise", lambda denoise: lambda self, module, dtype, image, text: denoise(
            self, module, dtype, image // 2, text
        )),
        "an_evaluation_takes_what_is_planned",
    ),
    "eight prompts": (
        instead(
            FluxNetworks,
            "read_text",
            lambda read: lambda self, part, module, tokens: read(self, part, module, 8 * tokens),
        ),
        "reading_a_prompt_takes_what_is_planned",
    ),
}  # fmt: skip
"""What is wrong with a family → how it becomes so, and the test that fails."""


@pytest.mark.parametrize("wrong", WRONG)
def test_a_family_that_is_wrong_fails(wrong, monkeypatch):
    patch, name = WRONG[wrong]
    test = getattr(SHARED, f"test_{name}")
    test()
    patch(monkeypatch)
    with pytest.raises(AssertionError) as failed:
        test()
    assert len(str(failed.value).split()) > 4, "it says what is wrong"


def test_a_family_that_imports_torch_at_once_fails(tmp_path, monkeypatch):
    """Whatever torch is, here one that is quick."""

    class Hasty(OfFlux):
        module = "hasty"

        def model(self):
            return SHARED.model()

    text = "from dit360_core.plugins.builtin.architectures import dit360_architectures as own\n"
    text += "import attrs\ndef load():\n    {}\n    return next(iter(own())).load()\n"
    text += "def dit360_architectures():\n    return [attrs.evolve(next(iter(own())), load=load)]\n"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").touch()
    (tmp_path / "hasty.py").write_text(text.format("pass"))
    Hasty().test_looking_at_a_folder_imports_nothing_heavy()
    (tmp_path / "hasty.py").write_text(text.format("import torch"))
    with pytest.raises(AssertionError, match="torch"):
        Hasty().test_looking_at_a_folder_imports_nothing_heavy()


def test_one_model_serves_all_tests_of_a_class():
    assert SHARED.model() is OfFlux().model()
    assert isinstance(SHARED.model().architecture, Architecture)
