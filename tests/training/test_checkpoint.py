"""Training that is stopped and resumed gives bit-equal weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import checkpoint, text
from training.flux_parts import CHANNELS, build_transformer
from training.scenes import draw
from training.tokenizers_of import clip_tokenizer, corpus, t5_tokenizer
from training.trainer import Latents, Trainer


@pytest.fixture(scope="module")
def encoders() -> text.Text:
    words = corpus(300)
    torch.manual_seed(0)
    return text.Text(clip_tokenizer(words, 50), t5_tokenizer(words, 300)).eval().requires_grad_(False)


def trainer(encoders: text.Text) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    latents: Latents = {
        "small": (torch.randn(4, 2, CHANNELS, 4, 8, generator=generator), [draw(seed) for seed in range(4)])
    }
    torch.manual_seed(3)
    return Trainer(build_transformer(1, 1, 1), encoders, latents)


def test_a_resumed_run_equals_an_unbroken_one(encoders: text.Text, tmp_path: Path) -> None:
    whole, first, second = trainer(encoders), trainer(encoders), trainer(encoders)
    for _ in range(4):
        whole.train_step("small", 2, 1e-3, distil=whole.step >= 1)
    for _ in range(2):
        first.train_step("small", 2, 1e-3, distil=first.step >= 1)
    first.save(tmp_path / "state.safetensors", {"spent": 1.5})
    assert second.restore(tmp_path / "state.safetensors")["spent"] == 1.5
    for _ in range(2):
        second.train_step("small", 2, 1e-3, distil=True)
    for part in ("model", "average"):
        for a, b in zip(getattr(whole, part).parameters(), getattr(second, part).parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_checkpoint_keeps_tensors_and_notes(tmp_path: Path) -> None:
    tensors = checkpoint.pack(a={"x": torch.arange(3)}, b={"x": torch.ones(2)})
    checkpoint.save(tmp_path / "c.safetensors", tensors, {"step": 7})
    read, notes = checkpoint.load(tmp_path / "c.safetensors")
    assert notes == {"step": 7}
    assert torch.equal(checkpoint.unpack(read, "a")["x"], torch.arange(3))
    assert not list(tmp_path.glob("*.tmp"))
