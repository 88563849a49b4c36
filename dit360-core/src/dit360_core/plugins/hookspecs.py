"""What a plugin may offer: seven hooks, each collecting offers of one kind.

A plugin is any module named by an entry point of the group ``dit360``. It marks functions with ``@hookimpl`` and
returns value objects from :mod:`dit360_core.plugins`; the core decides which of them is used::

    # pyproject.toml
    [project.entry-points.dit360]
    my_plugin = "my_plugin"
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from dit360_core.plugins.offers import (
    AttentionBackend,
    Model,
    ModelFamily,
    Offer,
    Quantizer,
    Scheduler,
    Tiling,
    WeightsFormat,
)

hookspec = pluggy.HookspecMarker("dit360")
hookimpl = pluggy.HookimplMarker("dit360")


class Dit360Spec:
    """The hooks. All of them collect; the order in which plugins are found decides nothing."""

    @hookspec
    def dit360_attention_backends(self) -> Iterable[AttentionBackend]:  # type: ignore[empty-body]
        """Attention kernels.

        Example::

            from dit360_core.plugins import AttentionBackend, hookimpl

            def load():
                import my_kernel                      # heavy imports belong here, not at the top
                return lambda q, k, v, *, scale: my_kernel.attention(q, k, v, scale)

            @hookimpl
            def dit360_attention_backends():
                yield AttentionBackend(name="mine", api=1, priority=30, requires=("my-kernel>=1",), load=load)
        """

    @hookspec
    def dit360_quantizers(self) -> Iterable[Quantizer]:  # type: ignore[empty-body]
        """Ways to store weights in fewer bits.

        Example::

            import torch                              # in a file of its own, which load imports
            from dit360_core.plugins import Quantizer, hookimpl

            class Float8Linear(torch.nn.Module):      # stores in eight bits, computes as before
                def __init__(self, linear):
                    super().__init__()
                    self.weight = torch.nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
                    self.bias = linear.bias
                def forward(self, x):
                    return torch.nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

            class Float8:
                def quantize(self, linear, *, one_token):
                    return Float8Linear(linear)

            @hookimpl
            def dit360_quantizers():
                yield Quantizer(name="fp8-storage", api=1, bits=8, error=0.06, load=Float8)
        """

    @hookspec
    def dit360_schedulers(self) -> Iterable[Scheduler]:  # type: ignore[empty-body]
        """Solvers of the probability-flow ODE or SDE.

        Example::

            from dit360_core.plugins import Scheduler, hookimpl

            class Euler:
                def __init__(self, settings):
                    self.settings = settings
                def sigmas(self, steps, tokens):
                    return [self.settings.shift(1 - i / steps, tokens) for i in range(steps)] + [0.0]
                def step(self, velocity, sigma, sigma_next, x, generator):
                    return x + (sigma_next - sigma) * velocity

            @hookimpl
            def dit360_schedulers():
                yield Scheduler(name="steps", api=1, load=Euler)
        """

    @hookspec
    def dit360_tilings(self) -> Iterable[Tiling]:  # type: ignore[empty-body]
        """Ways to decode and encode pictures that are too large for one piece.

        Example::

            import torch                              # in a file of its own, which load imports
            from dit360_core.plugins import Tiling, hookimpl

            class Wide:                               # wraps the latents instead of the convolutions
                def __init__(self, settings):
                    self.margin = max(1, settings.tile_overlap // 8)
                def decode(self, vae, latents):
                    m = min(self.margin, latents.shape[3])
                    wide = torch.cat([latents[..., -m:], latents, latents[..., :m]], dim=3)
                    return vae.decode(wide, return_dict=False)[0][..., 8 * m : -8 * m]
                def encode(self, vae, pixels):
                    m = 8 * min(self.margin, pixels.shape[3] // 8)
                    wide = torch.cat([pixels[..., -m:], pixels, pixels[..., :m]], dim=3)
                    return vae.encode(wide, return_dict=False)[0].mode()[..., m // 8 : -m // 8]

            @hookimpl
            def dit360_tilings():
                yield Tiling(name="wide", api=1, priority=-10, exact=False, load=Wide)
        """

    @hookspec
    def dit360_architectures(self) -> Iterable[ModelFamily]:  # type: ignore[empty-body]
        """Families of models.

        Example::

            from dit360_core.plugins import ModelFamily, hookimpl

            def load():
                from my_family.architecture import MY_FAMILY  # a dit360_core.models.family.Architecture
                return MY_FAMILY

            @hookimpl
            def dit360_architectures():
                yield ModelFamily(
                    name="mine", api=1, title="My family", pipelines=("MyPipeline",),
                    transformers=("MyTransformer2DModel",), load=load,
                )
        """

    @hookspec
    def dit360_formats(self) -> Iterable[WeightsFormat]:  # type: ignore[empty-body]
        """Forms of files that hold weights.

        Example::

            from dit360_core.plugins import WeightsFormat, hookimpl

            def load():
                from my_format.file import MyFile     # a dit360_core.models.family.WeightsFile
                return MyFile

            @hookimpl
            def dit360_formats():
                yield WeightsFormat(name="mine", api=1, suffixes=(".mine",), load=load)
        """

    @hookspec
    def dit360_models(self) -> Iterable[Model]:  # type: ignore[empty-body]
        """Names for models.

        Example::

            from dit360_core.plugins import Model, hookimpl

            @hookimpl
            def dit360_models():
                yield Model(name="mars", api=1, base="someone/mars-flux", width=2048, height=1024)
        """


KINDS: dict[str, tuple[str, type[Offer]]] = {
    "attention": ("dit360_attention_backends", AttentionBackend),
    "quantization": ("dit360_quantizers", Quantizer),
    "scheduler": ("dit360_schedulers", Scheduler),
    "tiling": ("dit360_tilings", Tiling),
    "architecture": ("dit360_architectures", ModelFamily),
    "format": ("dit360_formats", WeightsFormat),
    "model": ("dit360_models", Model),
}
"""Kind of offer → (the hook that collects it, the class its values must have)."""
