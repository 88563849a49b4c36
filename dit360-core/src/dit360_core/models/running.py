"""For authors of a family of models, what needs PyTorch: how its parts are built, asked and watched.

See :mod:`dit360_core.models.family`, which has the rest. Importing this imports diffusers.
"""

from dit360_core.models.attention import KernelProcessor, kernel_for
from dit360_core.models.diffusers_networks import DiffusersNetworks
from dit360_core.models.embedding import Embedding
from dit360_core.models.engine import Engine, Velocity, pictures_of
from dit360_core.models.given import check_numbers, check_parts
from dit360_core.models.one_frame_running import OneFrameEngine, OneFrameNetworks
from dit360_core.models.preview import fitted
from dit360_core.models.residency.residency import Residency
from dit360_core.models.shift import FlowShift
from dit360_core.models.text import hidden_states, language_model, padded, run_on_shapes
from dit360_core.models.tokenizers import check_numbers_of_tokens, load_tokenizer
from dit360_core.models.velocity import TokenVelocity
from dit360_core.models.weights.forms.mapped import mapped
from dit360_core.models.weights.forms.outgoing import About, Outgoing, WeightsWriter
from dit360_core.models.weights.forms.packed import Decode, Packed
from dit360_core.models.weights.parts import explain_libraries
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.selection import Policy
from dit360_core.sphere.grid import Grid
from dit360_core.sphere.vae import (
    Attention,
    CannotTakeApart,
    Convolution,
    PixelNorm,
    Projection,
    Residual,
    Step,
    TellsSteps,
    all_claimed,
    one_frame,
    rms_norm,
)

__all__ = [
    "About",
    "Attention",
    "CannotTakeApart",
    "Convolution",
    "Decode",
    "DiffusersNetworks",
    "Embedding",
    "Engine",
    "FlowShift",
    "Grid",
    "KernelProcessor",
    "OneFrameEngine",
    "OneFrameNetworks",
    "Outgoing",
    "Packed",
    "PixelNorm",
    "Policy",
    "Projection",
    "Residency",
    "Residual",
    "Step",
    "TellsSteps",
    "TokenVelocity",
    "Velocity",
    "WeightsWriter",
    "all_claimed",
    "check_numbers",
    "check_numbers_of_tokens",
    "check_parts",
    "explain_libraries",
    "fitted",
    "hidden_states",
    "kernel_for",
    "language_model",
    "load_tokenizer",
    "mapped",
    "one_frame",
    "padded",
    "pictures_of",
    "quiet",
    "rms_norm",
    "run_on_shapes",
]
