"""Autoencoding on the sphere: whole, in exact tiles, or blended from diffusers' own; always circular in longitude."""

from dit360_core.sphere.vae.blended import cuts_tiles, decode_blended, encode_blended, pixels_per_latent
from dit360_core.sphere.vae.circular import circular_twin, decode_whole, encode_whole
from dit360_core.sphere.vae.exact import decode_exact, encode_exact, weights_at_hand
from dit360_core.sphere.vae.schedule import (
    LEVELS,
    Level,
    Schedule,
    largest_tensor,
    make_schedule,
    predict_whole,
    size_after,
)
from dit360_core.sphere.vae.structure import CannotTakeApart, decoder_steps, encoder_steps

__all__ = [
    "LEVELS",
    "CannotTakeApart",
    "Level",
    "Schedule",
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
    "largest_tensor",
    "make_schedule",
    "pixels_per_latent",
    "predict_whole",
    "size_after",
    "weights_at_hand",
]
