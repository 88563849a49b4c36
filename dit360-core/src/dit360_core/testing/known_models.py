"""The contract of a name for a model, as tests that a plugin's author inherits."""

from __future__ import annotations

from pathlib import Path

from dit360_core.models.families import check_model
from dit360_core.models.weights.files import find_lora_file
from dit360_core.models.weights.hub_names import named_on_hub
from dit360_core.options import SampleOptions, build
from dit360_core.plugins.offers import Model
from dit360_core.system.naming import existing
from dit360_core.testing.offering import OfferConformance


class ModelConformance(OfferConformance):
    """Inherit, name the plugin's module and its offer, and let pytest run it::

        class TestMine(ModelConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_models()))

    It shows that what the name stands for can be asked for and found. No weights are loaded: they may be large, or not
    on this machine.
    """

    kind = Model

    def test_a_picture_of_its_size_steps_and_guidance_can_be_asked_for(self) -> None:
        offer = self.offer()
        own = ("width", "height", "steps", "guidance", "circular_padding")
        build(SampleOptions, {"prompt": "a castle", **{name: getattr(offer, name) for name in own}})

    def test_its_base_is_a_whole_model_or_an_id_of_the_hub(self) -> None:
        base = self.offer().base
        if _is_here(base):
            check_model(Path(base))

    def test_its_lora_is_a_file_or_an_id_of_the_hub(self) -> None:
        lora = self.offer().lora
        if lora is not None and _is_here(lora):
            find_lora_file(Path(lora))

    def test_its_shape_is_a_folder_with_the_configurations(self) -> None:
        shape = self.offer().shape
        if shape is not None:
            assert (Path(shape) / "transformer" / "config.json").is_file(), f"{shape} holds no configurations of parts"


def _is_here(name: str) -> bool:
    """Whether a text means something on this disk. Fails if it means nothing at all."""
    if Path(name).is_absolute():
        assert existing(name) is not None, f"there is no {name}"
        return True
    # Relative to wherever the program is started, a folder is there for its author alone.
    assert named_on_hub(name) is not None, f"{name} is neither a full path nor an id of the Hub (owner/name)"
    return False
