"""Autoencoding on the sphere: whole, in exact tiles, or blended from diffusers' own; always circular in longitude."""

from dit360_core.sphere.vae.blended import cuts_tiles, decode_blended, encode_blended
from dit360_core.sphere.vae.circular import circular_twin
from dit360_core.sphere.vae.exact import decode_exact, encode_exact, weights_at_hand
from dit360_core.sphere.vae.one_frame import (
    OneFrame,
    flatten,
    is_flat,
    is_stored,
    one_frame,
    one_frame_class,
    stored,
    stored_shape,
)
from dit360_core.sphere.vae.one_piece import predict_whole
from dit360_core.sphere.vae.schedule import (
    LEVELS,
    Level,
    Schedule,
    largest_tensor,
    make_schedule,
    size_after,
)
from dit360_core.sphere.vae.sizes import latent_channels, pixels_per_latent
from dit360_core.sphere.vae.steps import (
    Attention,
    CannotTakeApart,
    Convolution,
    PixelNorm,
    Projection,
    Residual,
    Step,
    TellsSteps,
    all_claimed,
    rms_norm,
)
from dit360_core.sphere.vae.structure import decoder_steps, encoder_steps
from dit360_core.sphere.vae.whole import decode_whole, encode_whole, is_run_by_steps, whole_decoder

__all__ = [
    "LEVELS",
    "Attention",
    "CannotTakeApart",
    "Convolution",
    "Level",
    "OneFrame",
    "PixelNorm",
    "Projection",
    "Residual",
    "Schedule",
    "Step",
    "TellsSteps",
    "all_claimed",
    "circular_twin",
    "cuts_tiles",
    "decode_blended",
    "decode_exact",
    "decode_whole",
    "decoder_steps",
    "encode_blended",
    "encode_exact",
    "encode_whole",
    "encoder_steps",
    "flatten",
    "is_flat",
    "is_run_by_steps",
    "is_stored",
    "largest_tensor",
    "latent_channels",
    "make_schedule",
    "one_frame",
    "one_frame_class",
    "pixels_per_latent",
    "predict_whole",
    "rms_norm",
    "size_after",
    "stored",
    "stored_shape",
    "weights_at_hand",
    "whole_decoder",
]
