"""klein-360: a name for FLUX.2 [klein] 4B, and the sizes of its parts, which a plan is made of before any download."""

from dit360_core.testing import ModelConformance
from dit360_model_flux2 import dit360_models
from whole_shapes import counted

(OFFER,) = dit360_models()


class TestKlein(ModelConformance):
    module = "dit360_model_flux2"

    def offer(self):
        return OFFER


def test_the_parts_are_as_large_as_those_of_the_model():
    """Of its denoiser the card says 4 billion; of Qwen3-4B, 4.0 billion with the embedding and 3.6 without."""
    transformer, vae, text = (counted(OFFER.shape, part) for part in ("transformer", "vae", "text_encoder"))
    assert transformer == 3_875_544_576
    assert vae == 84_046_115
    assert text == 4_022_468_096


def test_its_text_encoder_has_the_width_that_three_layers_of_it_are_read_in():
    assert counted(OFFER.shape, "transformer", "context_embedder") == 3 * 2560 * 3072
