"""An older model's latents and transformer, in a model with more of both."""

import pytest
import torch

from training import autoencoder, linear_encoder
from training.flux_parts import build_transformer, pack, unpack
from training.trainer import velocity
from training.widen import widen_encoder, widen_transformer

OLD = 16


def test_known_latents_stay_what_they_are_and_the_others_tell_what_they_leave_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = torch.rand(6, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    p2, p3, components, bias = linear_encoder.maps(linear_encoder.initialize(autoencoder.build(), [pictures]))
    old = autoencoder.build(latents=OLD)
    with monkeypatch.context() as older:
        older.setattr(linear_encoder, "LATENTS", OLD)
        linear_encoder.assign(old, p2, p3, components[:OLD], bias[:OLD] + 0.25)
    new = widen_encoder(old, [pictures])
    before, offset = linear_encoder.as_convolution(old)
    after, wide = linear_encoder.as_convolution(new)
    assert torch.allclose(after[:OLD], before, atol=1e-6)
    assert torch.allclose(wide[:OLD], offset, atol=1e-6)
    assert not torch.allclose(offset, torch.zeros(OLD))
    latents = torch.nn.functional.conv2d(pictures, after, wide, stride=8).transpose(0, 1).flatten(1)
    further = latents[OLD:]
    assert further.mean(1).abs().max() < 0.05 * further.std()  # about nothing, as they are taken of
    assert torch.linalg.matrix_rank(torch.cov(latents)) == linear_encoder.LATENTS


def test_a_wider_transformer_does_at_first_what_the_old_one_did() -> None:
    torch.manual_seed(1)
    old = build_transformer(1, 1, 2, channels=OLD).eval()
    for weights in old.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    new = widen_transformer(old, single=2).eval()
    count = linear_encoder.LATENTS
    latents = torch.randn(1, count, 4, 8)
    words, pooled, one = torch.randn(1, 8, 128), torch.randn(1, 128), torch.ones(1)
    with torch.no_grad():
        told = unpack(velocity(new, pack(latents), one * 0.5, words, pooled, one))
        known = unpack(velocity(old, pack(latents[:, :OLD]), one * 0.5, words, pooled, one))
    assert torch.allclose(told[:, :OLD], known, atol=1e-5)
    assert not told[:, OLD:].any()
