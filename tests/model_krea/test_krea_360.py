"""krea-360: a name for Krea 2 Turbo, and the sizes of the model's parts."""

from dit360_core.testing import ModelConformance
from dit360_model_krea import dit360_models
from whole_shapes import counted

(OFFER,) = dit360_models()


class TestKrea(ModelConformance):
    module = "dit360_model_krea"

    def offer(self):
        return OFFER


def test_the_parts_are_as_large_as_those_of_the_model():
    """Krea says 12.9 billion: these, and two matrices of 6144 × 6144 in the last layer that diffusers leaves out."""
    transformer, vae, text = (counted(OFFER.shape, part) for part in ("transformer", "vae", "text_encoder"))
    assert transformer == 12_820_073_036
    assert transformer + 2 * 6144 * 6144 == 12_895_570_508
    assert vae == 126_892_531
    assert text == 4_437_815_808
