"""The core's own models under the tests that plugins inherit; and those tests catch names that stand for nothing."""

import attrs
import pytest
from dit360_core.errors import ModelError
from dit360_core.plugins.builtin import models
from dit360_core.testing import ModelConformance

OFFERS = {offer.name: offer for offer in models.dit360_models()}


class Builtin(ModelConformance):
    module = "dit360_core.plugins.builtin.models"
    name = ""

    def offer(self):
        return OFFERS[self.name]


class TestTiny(Builtin):
    name = "tiny"


class TestDit360(Builtin):
    name = "dit360"


class TestDit360Fill(Builtin):
    name = "dit360-fill"


@pytest.mark.parametrize(
    ("changes", "test"),
    [
        ({"width": 500}, "test_a_picture_of_its_size_steps_and_guidance_can_be_asked_for"),
        ({"width": 256}, "test_a_picture_of_its_size_steps_and_guidance_can_be_asked_for"),
        ({"steps": 0}, "test_a_picture_of_its_size_steps_and_guidance_can_be_asked_for"),
        ({"guidance": 1e6}, "test_a_picture_of_its_size_steps_and_guidance_can_be_asked_for"),
        ({"base": "weights"}, "test_its_base_is_a_whole_model_or_an_id_of_the_hub"),
        ({"base": "./weights/mars"}, "test_its_base_is_a_whole_model_or_an_id_of_the_hub"),
        ({"base": "/nowhere/weights"}, "test_its_base_is_a_whole_model_or_an_id_of_the_hub"),
        ({"lora": "/nowhere/lora.safetensors"}, "test_its_lora_is_a_file_or_an_id_of_the_hub"),
        ({"shape": "/nowhere"}, "test_its_shape_is_a_folder_with_the_configurations"),
    ],
)
def test_a_name_that_is_wrong_fails(changes, test):
    class Tried(ModelConformance):
        def offer(self):
            return attrs.evolve(OFFERS["tiny"], **changes)

    with pytest.raises((AssertionError, ValueError)):
        getattr(Tried(), test)()


def test_a_base_with_a_part_missing_fails(tiny_copy):
    (tiny_copy / "vae" / "config.json").unlink()

    class Tried(ModelConformance):
        def offer(self):
            return attrs.evolve(OFFERS["tiny"], base=str(tiny_copy))

    with pytest.raises(ModelError, match="vae has no config"):
        Tried().test_its_base_is_a_whole_model_or_an_id_of_the_hub()
