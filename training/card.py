"""Writes the model card: what the checkpoints say about training, and what `evaluate` found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from training import autoencoder, checkpoint, text, transformer
from training.data import KINDS, ZOOMED
from training.evaluate import FIGURES, met
from training.export import TARGET

_CARD = """\
---
library_name: diffusers
pipeline_tag: text-to-image
tags: [panorama, equirectangular, flux, demonstration]
---
# tiny: the embedded demonstration model of dit360

A very small model in the format of FLUX.1-dev. It turns a prompt into a 360° equirectangular panorama of a simple,
toy-like scene on a CPU, so that every control of dit360 can be tried and measured on a real picture without a GPU, a
download or an account. It is a demonstration, not a replacement for FLUX.1-dev with DiT360.

![Contact sheet: one seed, nothing picked](contact-sheet.jpg)

| | |
|---|---|
| format | a standard diffusers folder (`FluxPipeline`), fp16 safetensors; {parameters:.2f} M parameters, {megabytes:.1f} MB |
| transformer | FluxTransformer2DModel, {double} double and {single} single blocks, {heads} heads of 32 |
| autoencoder | AutoencoderKL, 8x8 pixels to {channels} channels; the encoder is a principal component analysis |
| native size | 512x256 (width x height); 256x128 and 1024x512 with `position_interpolation`, which dit360 uses by itself |
| text | English, about 250 words; T5 sequences of 32 to 64 tokens (`max_sequence_length`), CLIP up to 77 |
| guidance | distilled into the guidance input for values of 1 to 5: 1 is plain, 3 (the default) is clearer |
| on a CPU | load it in float32 |
| meridian | wrap it when decoding, turn it between steps (as dit360 does), or a seam may show |

## Data
{scenes} scenes rendered by the code in `training/`: sea, meadow, desert, snow or stone plaza; mountains, forest, city
or castle on the horizon; noon, sunset, dawn or night; clear, cloudy or overcast; fog or snowfall; and box-shaped rooms
in 15 % of them.{larger} Captions are made from the scene's parameters. No photograph and no other model's weights or
output was used.

## Training
{training}

## Measured
By `make eval-tiny` (seed of a picture = number of its prompt, nothing picked). Prompts are captions of {count} scenes
that no training has seen, typos and capitals among them; a classifier trained on renders judges the pictures. It is
right about {judge_renders} renders that it never saw: indoors or outdoors {judge_kind:.1%}, time {judge_time:.1%}, ground
{judge_ground:.1%}, landmark {judge_landmark:.1%}.

| promise | figure | bound |
|---|---|---|
{promises}

| {count_some} prompts, unless told | indoors/outdoors | time of day | ground | landmark | seam ratio, mean (median) | poles, renders = 1 |
|---|---|---|---|---|---|---|
{rows}

Autoencoder: {psnr:.1f} dB over {psnr_renders} renders that it never saw, the lowest {psnr_lowest:.1f}.

## What it cannot do
* Anything that is not in the list under Data: no people, animals, vehicles, text, streets or indoor scenes beyond one
  kind of room. Unknown words are ignored or misread.
* Fine detail: castles, skylines and furniture are simple shapes.
* {sizes}
* Prompts of more than about 40 words: only the first 64 tokens are read.
"""

_NAMES = {
    "prompts.kind": "indoors or outdoors as asked",
    "prompts.time": "time of day as asked",
    "prompts.ground": "ground as asked",
    "prompts.landmark": "landmark as asked",
    "prompts.seam_to_renders": "seam ratio, mean; that of renders over all yaws = 1",
    "prompts.poles_to_renders": "standard deviation along the first and last row, that of renders = 1",
    "autoencoder.psnr": "autoencoder, dB",
    "autoencoder.power_32_64": "detail that the autoencoder keeps, 32 to 64 cycles a height",
    "autoencoder.power_64_96": "… 64 to 96 cycles",
    "structure.from_84": "structure: unseen renders noised to σ 0.84 and denoised again, dB (28 was aimed at)",
    "cost.seconds": "seconds a picture, 28 steps and decode, 2 threads",
    "cost.peak_gib": "peak memory of the process, GiB",
    "folder.megabytes": "folder, MB",
}


def _row(name: str, found: dict[str, Any]) -> str:
    shares = " | ".join(f"{found[key]:.1%}" if key in found else "–" for key in ("kind", "time", "ground", "landmark"))
    return f"| {name} | {shares} | {found['seam_mean']:.2f} ({found['seam_median']:.2f}) | {found['poles_to_renders']:.2f} |"


def _rows(figures: dict[str, Any]) -> str:
    names = {"prompts": f"512x256, guidance 3, 28 steps ({figures['prompts']['count']} prompts)"}
    names["paraphrases"] = f"… sentences of other makes than captions ({figures['paraphrases']['count']})"
    for group, found in figures.items():
        word, _, value = group.partition(" ")
        if word == "width":
            names[group] = f"{value}x{int(value) // 2} ({found['count']})"
        elif word in ("guidance", "steps"):
            names[group] = group
        elif word == "unturned":
            names[group] = "without latent rotation"
    return "\n".join(_row(name, figures[group]) for group, name in names.items())


def _sizes(figures: dict[str, Any]) -> str:
    parts = []
    for width in (256, 1024):
        if found := figures.get(f"width {width}"):
            parts.append(f"{width}x{width // 2}: landmark {found['landmark']:.0%}, seam ratio {found['seam_mean']:.2f}")
    return (
        "Sizes other than its own as well: smaller pictures lose detail, larger ones are outside of what it was trained "
        "on, their textures repeat and edges fray" + (f" ({'; '.join(parts)})." if parts else ".")
    )


def _training(go_on: str) -> str:
    words = checkpoint.load(text.CHECKPOINT)[1]
    vae = checkpoint.load(autoencoder.CHECKPOINT)[1]
    flow = checkpoint.load(transformer.CHECKPOINT)[1]
    lines = []
    if "right_t5" in words:
        lines.append(
            f"Text encoders: {words['spent'] / 60:.0f} minutes, {words['step']} steps; they guess a scene's attributes "
            f"from its caption (T5 {words['right_t5']:.1%}, CLIP {words['right_clip']:.1%} right), then are frozen."
        )
    if vae["step"]:
        lines.append(f"Decoder: {vae['spent'] / 60:.0f} minutes, {vae['step']} steps.")
    recipe = ", ".join(f"{name} {value:g}" for name, value in flow["recipe"].items() if value)
    lines.append(
        f"Transformer: {flow['spent'] / 60:.0f} minutes of wall clock, {flow['step']} steps, {flow['samples']} samples; "
        f"means used: {recipe} (weights; padding in token columns; padding and cube are DiT360's)."
    )
    return "\n\n".join(([go_on] if go_on else []) + lines)


def _larger() -> str:
    """What was trained on beside pictures of the native size."""
    trained = checkpoint.load(transformer.CHECKPOINT)[1].get("trained", {})
    sizes = [f"{KINDS[kind].zoom}" for kind in ZOOMED if trained.get(kind)]
    if not sizes:
        return ""
    count = sum(trained[kind] for kind in ZOOMED if kind in trained)
    return (
        f" {count} samples are windows over pictures of {' and '.join(sizes)} times the size, as upscaling sees them."
    )


def write(folder: Path, figures: dict[str, Any], go_on: str = "") -> Path:
    """Writes README.md of the exported model in `folder`. go_on: a sentence about what came before this training."""
    flow = checkpoint.load(transformer.CHECKPOINT)[1]
    double, single, heads = flow["shape"]
    promises = "\n".join(
        f"| {_NAMES[name]} | {f'{value:.1%}' if bound.startswith('≥ 0') else f'{value:.2f}'} | {bound} |"
        for name, value, bound, _ in met(figures)
        if name in _NAMES
    )
    judged = figures["judge"]
    some = next((found["count"] for group, found in figures.items() if group.startswith("guidance")), 0)
    card = folder / "README.md"
    card.write_text(
        _CARD.format(
            parameters=figures["folder"]["parameters"],
            megabytes=figures["folder"]["megabytes"],
            double=double,
            single=single,
            heads=heads,
            channels=checkpoint.load(autoencoder.CHECKPOINT)[0]["average/decoder.conv_in.weight"].shape[1],
            scenes=len(transformer.read("small")[1]),
            larger=_larger(),
            training=_training(go_on),
            count=figures["prompts"]["count"],
            count_some=some,
            judge_renders=judged["renders"],
            judge_kind=judged["kind"],
            judge_time=judged["time"],
            judge_ground=judged["ground"],
            judge_landmark=judged["landmark"],
            promises=promises,
            rows=_rows(figures),
            psnr=figures["autoencoder"]["psnr"],
            psnr_renders=figures["autoencoder"]["renders"],
            psnr_lowest=figures["autoencoder"]["lowest"],
            sizes=_sizes(figures),
        ),
        encoding="utf-8",
    )
    return card


def main(
    folder: Annotated[Path, typer.Option(help="An exported folder.")] = TARGET,
    figures: Annotated[Path, typer.Option(help="What evaluate wrote.")] = FIGURES,
    before: Annotated[str, typer.Option(help="A sentence about what came before this training.")] = "",
) -> None:
    """Writes the model card of the exported model."""
    print(write(folder, json.loads(figures.read_text(encoding="utf-8")), before))


if __name__ == "__main__":
    typer.run(main)
