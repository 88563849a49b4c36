"""Autoencoding on the sphere: whole, in exact tiles, or blended from diffusers' own; always circular in longitude."""

from dit360_core.vae.circular import circular_twin, decode_whole, encode_whole
from dit360_core.vae.exact import decode_exact, encode_exact
from dit360_core.vae.schedule import LEVELS, Level, Schedule, make_schedule
from dit360_core.vae.structure import CannotTakeApart, decoder_steps, encoder_steps

__all__ = [
    "LEVELS",
    "CannotTakeApart",
    "Level",
    "Schedule",
    "circular_twin",
    "decode_exact",
    "decode_whole",
    "decoder_steps",
    "encode_exact",
    "encode_whole",
    "encoder_steps",
    "make_schedule",
]
