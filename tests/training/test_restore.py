"""Training can go on from the weights that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import autoencoder, restore, text, transformer
from training.export import TARGET, assemble


def test_a_model_becomes_checkpoints_and_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((text, "text"), (autoencoder, "autoencoder"), (transformer, "transformer")):
        monkeypatch.setattr(module, "CHECKPOINT", tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(text, "TOKENIZERS", tmp_path / "tokenizers")
    assert len(restore.restore(TARGET)) == 3
    assert restore.restore(TARGET) == []
    shipped = restore.FluxPipeline.from_pretrained(TARGET, dtype=torch.float32)
    monkeypatch.setattr(text.load, "__defaults__", (text.CHECKPOINT, True))
    monkeypatch.setattr(text.make_tokenizers, "__defaults__", (text.TOKENIZERS,))
    monkeypatch.setattr(autoencoder.load, "__defaults__", (autoencoder.CHECKPOINT,))
    monkeypatch.setattr(transformer.load, "__defaults__", (transformer.CHECKPOINT,))
    again = assemble()
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(again, part).state_dict(), getattr(shipped, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.tokenizer_2("a castle").input_ids == shipped.tokenizer_2("a castle").input_ids
