"""FLUX.2 [klein] under the tests that authors of families inherit; and another formula of true guidance fails them."""

import dit360_model_flux2
import pytest
from dit360_core.testing import ArchitectureConformance
from dit360_model_flux2.engine import Flux2Engine
from random_families import random_klein


@pytest.mark.long
class TestKlein(ArchitectureConformance):
    module = "dit360_model_flux2"

    def offer(self):
        return next(iter(dit360_model_flux2.dit360_architectures()))

    def pipeline(self):
        return random_klein()

    def test_another_formula_of_guidance_fails(self, monkeypatch):
        def from_the_prompt(engine, towards, away, scale):
            return towards + scale * (towards - away)

        monkeypatch.setattr(Flux2Engine, "guided", from_the_prompt)
        with pytest.raises(AssertionError, match=r"Engine\.guided"):
            self.test_latents_are_those_of_diffusers()
