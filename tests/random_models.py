"""Every part of a FLUX pipeline in miniature, with random weights: the real classes, at sizes that cost nothing."""

import torch
from dit360_core.models.flux.small import small_autoencoder
from dit360_core.models.weights.quiet import quiet


def random_flux(dtype=torch.float32, *, guidance_embeds=True, seed=0, heads=2, dynamic=True, fills=False):
    """A FluxPipeline of diffusers with random weights: the real parts in miniature, without text encoders.

    fills: a FluxFillPipeline instead.
    """
    with quiet():
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxPipeline, FluxTransformer2DModel

        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=384 if fills else 64,
            out_channels=64 if fills else None,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=heads,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        vae = small_autoencoder(dtype)
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=dynamic, base_shift=0.5, max_shift=1.15, shift=3.0
        )
        pipe = (FluxFillPipeline if fills else FluxPipeline)(
            transformer=transformer.to(dtype),
            vae=vae,
            scheduler=scheduler,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_conditioning(dtype=torch.float32, *, seed=1, negative=False):
    """Embeddings as the text encoders of ``random_flux`` would make them."""
    from dit360_core.models.embedding import Embedding
    from dit360_core.pipeline.stages import Conditioning

    generator = torch.Generator().manual_seed(seed)

    def embedding():
        return Embedding(
            tokens=torch.randn(1, 7, 32, generator=generator, dtype=torch.float64).to(dtype),
            pooled=torch.randn(1, 16, generator=generator, dtype=torch.float64).to(dtype),
        )

    return Conditioning(
        prompt="a test",
        negative_prompt="" if negative else None,
        positive=embedding(),
        negative=embedding() if negative else None,
        max_sequence_length=7,
    )
