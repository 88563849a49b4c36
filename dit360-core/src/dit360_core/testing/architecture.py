"""The contract of a family of models, as tests that a plugin's author inherits."""

from __future__ import annotations

from dit360_core.testing.families.autoencoders import AutoencoderTests
from dit360_core.testing.families.folders import FolderTests
from dit360_core.testing.families.loras import LoraTests
from dit360_core.testing.families.pictures import PaddingTests, PictureTests
from dit360_core.testing.families.weights import WeightTests


class ArchitectureConformance(FolderTests, PictureTests, PaddingTests, AutoencoderTests, LoraTests, WeightTests):
    """Inherit, name the plugin's module, its offer and a tiny model, and let pytest run it::

        class TestMine(ArchitectureConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_architectures()))
            def pipeline(self):
                return MyPipeline(transformer=MyTransformer2DModel(num_layers=2, …), …)  # of diffusers, all parts

    The model is saved with ``save_pretrained``, loaded as a user's would be, and compared with what the family's own
    pipeline of diffusers makes of the same noise. Let it be one that paints from a prompt, with weights of such a size
    that every layer has something to say. What the tests of one class share is made once.

    module, heavy: as for every offer.
    size, steps, seed, prompt: of the pictures that are painted.
    double: whether diffusers' own pipeline runs in float64, in which latents are then met within 10⁻¹⁰.
    paddings: columns on either side, that are tried.
    wide: pixels of the picture whose activations are measured.
    """
