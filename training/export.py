# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Writes the trained parts as a diffusers folder in fp16, replacing an older one file by file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel

from training import autoencoder, text
from training.autoencoder import build as build_autoencoder
from training.flux_parts import build_scheduler, build_transformer

TARGET = Path(__file__).parents[1] / "dit360-core" / "src" / "dit360_core" / "models" / "shipped" / "tiny"


def assemble(untrained: bool = False) -> FluxPipeline:
    """A FluxPipeline of the trained parts in float32; parts without a checkpoint keep random weights if allowed."""
    from training import transformer as transformer_stage

    def have(stage: Path) -> bool:
        if not stage.exists() and not untrained:
            raise FileNotFoundError(f"{stage} is missing; train this stage first, or pass --untrained")
        return stage.exists()

    encoders = text.load(trained=have(text.CHECKPOINT))
    vae = autoencoder.load() if have(autoencoder.CHECKPOINT) else build_autoencoder()
    if vae.config.shift_factor is None:
        vae.register_to_config(shift_factor=0.0)
    denoiser = transformer_stage.load() if have(transformer_stage.CHECKPOINT) else build_transformer()
    return put_together(encoders, vae, denoiser)


def put_together(encoders: text.Text, vae: AutoencoderKL, transformer: FluxTransformer2DModel) -> FluxPipeline:
    """The pipeline of these parts, with FLUX's scheduler."""
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=encoders.text_encoder,
        tokenizer=encoders.tokenizer,
        text_encoder_2=encoders.text_encoder_2,
        tokenizer_2=encoders.tokenizer_2,
        transformer=transformer,
    )


def write(pipeline: FluxPipeline, target: Path) -> int:
    """Saves `pipeline` as fp16 safetensors to `target` and returns its size in bytes.

    Everything is written to a neighbouring folder and then renamed over the old files one at a time.
    """
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(dtype=_half()).save_pretrained(fresh, safe_serialization=True)
    _clean(fresh)
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        final = target / file.relative_to(fresh)
        final.parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o644)
        file.rename(final)
    shutil.rmtree(fresh)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _half():  # type: ignore[no-untyped-def]
    import torch

    return torch.float16


def _clean(folder: Path) -> None:
    """Removes what must not be in a published folder: the name of the local path that a part was loaded from."""
    for file in folder.rglob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main(
    target: Annotated[Path, typer.Option(help="Folder to write.")] = TARGET,
    untrained: Annotated[bool, typer.Option(help="Allow random weights for stages not trained yet.")] = False,
) -> None:
    """Exports the embedded model."""
    size = write(assemble(untrained), target)
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
