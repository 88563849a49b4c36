"""360° panoramas with diffusion transformers, on the machine you have.

>>> import dit360_core as dit360
>>> pipe = dit360.load("tiny")
>>> pano = pipe.generate("a castle above a meadow at sunset", seed=7)
>>> pano.save("castle.jpg")

Importing this package imports no torch; loading a model does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dit360_core.errors import BackendUnavailable as BackendUnavailable
    from dit360_core.errors import Dit360Error as Dit360Error
    from dit360_core.errors import InputError as InputError
    from dit360_core.errors import ModelError as ModelError
    from dit360_core.errors import UnknownName as UnknownName
    from dit360_core.options import DecodeOptions as DecodeOptions
    from dit360_core.options import EditOptions as EditOptions
    from dit360_core.options import LargerOptions as LargerOptions
    from dit360_core.options import LoadOptions as LoadOptions
    from dit360_core.options import SampleOptions as SampleOptions
    from dit360_core.panorama.photos import Photo as Photo
    from dit360_core.panorama.picture import Panorama as Panorama
    from dit360_core.pipeline.holding import Hold as Hold
    from dit360_core.pipeline.loading import load as load
    from dit360_core.pipeline.pipeline import Pipeline as Pipeline
    from dit360_core.pipeline.quantizing import quantize as quantize
    from dit360_core.pipeline.stages import Conditioning as Conditioning
    from dit360_core.pipeline.stages import Latents as Latents

_WHERE = {
    "load": "pipeline.loading",
    "quantize": "pipeline.quantizing",
    "Pipeline": "pipeline.pipeline",
    "Conditioning": "pipeline.stages",
    "Latents": "pipeline.stages",
    "Panorama": "panorama.picture",
    "Photo": "panorama.photos",
    "Hold": "pipeline.holding",
    "LoadOptions": "options",
    "SampleOptions": "options",
    "EditOptions": "options",
    "LargerOptions": "options",
    "DecodeOptions": "options",
    "Dit360Error": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "UnknownName": "errors",
    "BackendUnavailable": "errors",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes longer than all the rest of this

        return version("dit360-core")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
