"""Where the model that is part of this package lies."""

from __future__ import annotations

from importlib import resources

SHIPPED = resources.files("dit360_core") / "models" / "shipped"
"""The folder of models, and of what is known of larger ones, that is installed with the core."""

EMBEDDED_MODEL = str(SHIPPED / "tiny")
"""The diffusers folder of the embedded model, in full: a ``base`` for a :class:`Model` that needs no download.

Its own size is 512 × 256 pixels. It wants ``latent_rotation``, ``position_interpolation``, ``cube_consistency=0.3`` and
``precision="fp32"``.
"""
