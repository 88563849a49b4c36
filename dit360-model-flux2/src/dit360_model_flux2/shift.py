"""How far FLUX.2 moves its noise levels: the fit of diffusers' pipelines, to image tokens and steps."""

from __future__ import annotations

_FEW = (8.73809524e-05, 1.89833333)
"""Slope and start of the line for ten steps …"""
_MANY = (0.00016927, 0.45666666)
"""… and for two hundred, or for any number above …"""
_LARGE = 4300
"""… so many tokens."""


def exponent(tokens: int, steps: int) -> float:
    """mu for a picture. Source: ``compute_empirical_mu`` of diffusers 0.42, pipelines/flux2.

    tokens: of the image, pad columns included.
    """
    many = _MANY[0] * tokens + _MANY[1]
    if tokens > _LARGE:
        return many
    few = _FEW[0] * tokens + _FEW[1]
    slope = (many - few) / 190.0
    return slope * steps + many - 200.0 * slope
