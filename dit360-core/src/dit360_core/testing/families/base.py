"""What an author says of a family, and the one tiny model that all of its tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dit360_core.plugins.offers import ModelFamily
from dit360_core.testing.families.model import TinyModel
from dit360_core.testing.families.reference import as_called
from dit360_core.testing.offering import OfferConformance


class FamilyTests(OfferConformance):
    """The model is made when the first test wants it, and its files go when the last has run.

    size, steps, seed, prompt: of the pictures that are painted; width and height in pixels, multiples of 16.
    """

    kind = ModelFamily
    size: tuple[int, int] = (128, 64)
    steps: int = 3
    seed: int = 5
    prompt: str = "a calm sea"
    _shared: ClassVar[TinyModel | None] = None

    def pipeline(self) -> Any:
        """A pipeline of diffusers of this family: tiny, with random weights in float32, and whole."""
        raise NotImplementedError

    def words(self, pipe: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """What diffusers' pipeline is called with; override where it calls things otherwise.

        known: prompt, width, height, num_inference_steps, generator, max_sequence_length, guidance, whether that is
        true, and then negative_prompt.
        """
        return as_called(pipe, known)

    def model(self) -> TinyModel:
        """The tiny model, one for all tests of a class."""
        cls = type(self)
        if cls.__dict__.get("_shared") is None:
            cls._shared = TinyModel(
                self.offer(),
                self.pipeline,
                size=self.size,
                steps=self.steps,
                seed=self.seed,
                prompt=self.prompt,
                words=self.words,
            )
        made: Any = cls._shared
        return made  # type: ignore[no-any-return]

    def _text(self) -> int:
        """How many tokens the prompt has."""
        return int(self.model().embedding.tokens.shape[1])

    @classmethod
    def teardown_class(cls) -> None:
        """For pytest: lets go of the model."""
        if (shared := cls.__dict__.get("_shared")) is not None:
            shared.close()
            cls._shared = None
