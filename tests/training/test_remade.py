"""Renders that the transformer finishes again: what is noised comes back in its place, however it was turned."""

from __future__ import annotations

import random

import torch

from training import text
from training.flux_parts import CHANNELS, build_transformer
from training.remade import NOISE, remake
from training.scenes import draw
from training.tokenizers_of import clip_tokenizer, corpus, t5_tokenizer


def encoders() -> text.Text:
    words = corpus(300)
    torch.manual_seed(0)
    return text.Text(clip_tokenizer(words, 50), t5_tokenizer(words, 300)).eval().requires_grad_(False)


def test_a_model_that_moves_nothing_leaves_the_noised_latents() -> None:
    torch.manual_seed(3)
    still, clean = build_transformer(1, 1, 1), torch.randn(CHANNELS, 4, 8)
    made = remake(still, encoders(), clean, draw(0), seed=7)
    sigma = random.Random(7).uniform(*NOISE)
    noise = torch.randn(1, CHANNELS, 4, 8, generator=torch.Generator().manual_seed(7))[0]
    assert torch.allclose(made, (1 - sigma) * clean + sigma * noise, atol=1e-6)


def test_a_model_that_moves_every_token_alike_moves_every_latent() -> None:
    torch.manual_seed(3)
    moving, clean = build_transformer(1, 1, 1), torch.randn(CHANNELS, 4, 8)
    still = remake(moving, encoders(), clean, draw(0), seed=7)
    torch.nn.init.constant_(moving.proj_out.bias, 0.5)
    sigma = random.Random(7).uniform(*NOISE)
    moved = remake(moving, encoders(), clean, draw(0), seed=7)
    assert torch.allclose(moved, still - 0.5 * sigma, atol=1e-5)
