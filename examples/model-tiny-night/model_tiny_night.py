"""A name for a model: the small one of dit360-core, at night and twice as large as usual."""

from importlib import resources

from dit360_core.plugins.hookspecs import hookimpl
from dit360_core.plugins.offers import Model

TINY = str(resources.files("dit360_core") / "models" / "shipped" / "tiny")  # any diffusers folder or id of the Hub


@hookimpl
def dit360_models():
    yield Model(
        name="tiny-night", api=1, base=TINY, prompt_prefix="at night, ", width=1024, height=512,
        latent_rotation=True, position_interpolation=True, precision="fp32",
    )  # fmt: skip
