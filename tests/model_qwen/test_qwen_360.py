"""qwen-360: a name for Qwen-Image-2512 and a panorama LoRA, and the sizes of the model's parts."""

from dit360_core.testing import ModelConformance
from dit360_model_qwen import dit360_models
from whole_shapes import counted

(OFFER,) = dit360_models()


class TestQwen(ModelConformance):
    module = "dit360_model_qwen"

    def offer(self):
        return OFFER


def test_the_parts_are_as_large_as_those_of_the_model():
    """The denoiser's files hold 40.86 GB in bf16. Of Qwen2.5-VL-7B the card says 8.3 billion, its eyes among them."""
    transformer, vae, text = (counted(OFFER.shape, part) for part in ("transformer", "vae", "text_encoder"))
    assert transformer == 20_430_401_088
    assert vae == 126_892_531
    assert text == 8_292_166_656
