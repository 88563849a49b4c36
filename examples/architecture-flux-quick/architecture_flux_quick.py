"""A family of models: FLUX.1's parts, in folders that name a pipeline of their own, and run in few steps."""

import attrs
from dit360_core.models.family import Flux  # no torch: that comes when a model is loaded
from dit360_core.plugins import ModelFamily, hookimpl


class Quick(Flux):
    name, title = "flux-quick", "Quick FLUX"
    pipelines = ("QuickFluxPipeline",)

    def usual(self, model, facts):
        return attrs.evolve(model, steps=8, guidance=2.0)


@hookimpl
def dit360_architectures():
    yield ModelFamily(
        name=Quick.name, api=1, title=Quick.title, load=Quick,
        pipelines=Quick.pipelines, transformers=("FluxTransformer2DModel",),
    )  # fmt: skip
