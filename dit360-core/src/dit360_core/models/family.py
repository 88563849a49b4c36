"""For authors of a family of models, what needs no PyTorch: what a family says of its folders, parts and sizes.

With :mod:`dit360_core.models.running`, which has the rest, and :mod:`dit360_core.plugins` this is all that a family
needs, and all that is promised to stay::

    from dit360_core.models.family import Architecture, Facts, ModelFolder, Part, Role
"""

from dit360_core.models.architecture import (
    AUTOENCODER,
    DENOISER,
    Architecture,
    Facts,
    FromShapes,
    Guidance,
    Networks,
    Part,
    Role,
    Target,
    index_of,
)
from dit360_core.models.flux.architecture import Flux
from dit360_core.models.flux.autoencoder_names import original_name as flux_autoencoder_name
from dit360_core.models.folder import ModelFolder, PartKind
from dit360_core.models.libraries import explain_broken_import
from dit360_core.models.lora.naming import DENOISER_PREFIXES, Blocks, LayerNames, PartNames, flat, looked_up, same
from dit360_core.models.one_frame import ONE_FRAME, one_frame_channels, one_frame_kind
from dit360_core.models.original_names import Layers, Original, OriginalBlocks, OriginalNames, as_they_are
from dit360_core.models.schemas import (
    ACTIVATIONS,
    EPSILON,
    ID,
    LANGUAGE_MODEL,
    LAYERS,
    SCHEDULER,
    SHARE,
    VOCABULARY,
    WIDEST,
    WIDTH,
    WRITTEN,
    odd_language_model,
    odd_scheduler,
    text_config_of,
)
from dit360_core.models.shapes_told import blocks_in, first_of
from dit360_core.models.tokenizers import TokenizerKind, longest_prompt
from dit360_core.models.weights.forms.description import PLAIN, Described, WeightsFile
from dit360_core.models.weights.schema import FLAG, Schema, Value, list_of, number, one_of, texts, whole

__all__ = [
    "ACTIVATIONS",
    "AUTOENCODER",
    "DENOISER",
    "DENOISER_PREFIXES",
    "EPSILON",
    "FLAG",
    "ID",
    "LANGUAGE_MODEL",
    "LAYERS",
    "ONE_FRAME",
    "PLAIN",
    "SCHEDULER",
    "SHARE",
    "VOCABULARY",
    "WIDEST",
    "WIDTH",
    "WRITTEN",
    "Architecture",
    "Blocks",
    "Described",
    "Facts",
    "Flux",
    "FromShapes",
    "Guidance",
    "LayerNames",
    "Layers",
    "ModelFolder",
    "Networks",
    "Original",
    "OriginalBlocks",
    "OriginalNames",
    "Part",
    "PartKind",
    "PartNames",
    "Role",
    "Schema",
    "Target",
    "TokenizerKind",
    "Value",
    "WeightsFile",
    "as_they_are",
    "blocks_in",
    "explain_broken_import",
    "first_of",
    "flat",
    "flux_autoencoder_name",
    "index_of",
    "list_of",
    "longest_prompt",
    "looked_up",
    "number",
    "odd_language_model",
    "odd_scheduler",
    "one_frame_channels",
    "one_frame_kind",
    "one_of",
    "same",
    "text_config_of",
    "texts",
    "whole",
]
