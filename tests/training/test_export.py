"""The exported folder is a standard diffusers folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from training import text
from training.autoencoder import build
from training.export import put_together, write
from training.flux_parts import build_transformer
from training.tokenizers_of import clip_tokenizer, corpus, t5_tokenizer


@pytest.fixture(scope="module")
def encoders() -> text.Text:
    words = corpus(300)
    return text.Text(clip_tokenizer(words, 50), t5_tokenizer(words, 300)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoders: text.Text) -> Path:
    vae = build()
    vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    pipeline = put_together(encoders, vae, build_transformer(1, 1, 1))
    target = tmp_path_factory.mktemp("models") / "small"
    assert write(pipeline, target) < 25e6
    return target


def test_it_makes_a_picture_in_flux_pipeline(folder: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline("a castle", height=64, width=128, num_inference_steps=2, max_sequence_length=32, output_type="pt")
    assert out.images.shape == (1, 3, 64, 128)
    assert bool(torch.isfinite(out.images).all())


def test_it_has_no_pickles_and_no_leftovers(folder: Path) -> None:
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors"}
    assert not folder.with_name("small.new").exists()


def test_tokenizers_survive_the_round_trip(folder: Path, encoders: text.Text) -> None:
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    made_here = encoders.tokenizer, encoders.tokenizer_2
    for made, read in zip(made_here, (pipeline.tokenizer, pipeline.tokenizer_2), strict=True):
        for prompt in ("A Castle at SUNSET", "zebra, xylophone!"):
            assert made(prompt).input_ids == read(prompt).input_ids
    assert pipeline.tokenizer.model_max_length == 77
    assert pipeline.tokenizer_2.model_max_length == 64
    assert pipeline.tokenizer.eos_token_id == len(pipeline.tokenizer) - 1
