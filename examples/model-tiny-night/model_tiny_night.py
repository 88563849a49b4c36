"""A name for a model: the small one of dit360-core, at night and twice as large as usual."""

from dit360_core.plugins import EMBEDDED_MODEL, Model, hookimpl


@hookimpl
def dit360_models():
    yield Model(
        name="tiny-night", api=1, prompt_prefix="at night, ", width=1024, height=512,
        base=EMBEDDED_MODEL,  # or any diffusers folder, in full, or id of the Hub
        latent_rotation=True, position_interpolation=True, cube_consistency=0.3, precision="fp32",
    )  # fmt: skip
