"""Makes the README's picture: a sheet of panoramas by the embedded model, as `dit360 generate` makes them.

make gallery
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dit360_core as dit360
import typer
from PIL import Image, ImageDraw, ImageFont

PROMPTS = (
    "a castle above a meadow at sunset",
    "a calm sea under a starry night sky",
    "snowy mountains at noon",
    "a desert at dawn",
    "a city skyline at night across the water",
    "a forest in fog",
)
COLUMNS, MARGIN, CAPTION = 2, 12, 30


def main(
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("docs/images/gallery.jpg"),
    seed: Annotated[int, typer.Option()] = 7,
    scale: Annotated[int, typer.Option(help="Enlargement of each panorama.")] = 2,
) -> None:
    """Paint every prompt with the same seed, pick nothing, and write the sheet."""
    pipe = dit360.load("tiny")
    panoramas = [pipe.generate(prompt, seed=seed) for prompt in PROMPTS]
    width, height = (scale * side for side in panoramas[0].size)
    rows = -(-len(PROMPTS) // COLUMNS)
    size = (COLUMNS * (width + MARGIN) + MARGIN, rows * (height + CAPTION) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (prompt, panorama) in enumerate(zip(PROMPTS, panoramas, strict=True)):
        x, y = MARGIN + (i % COLUMNS) * (width + MARGIN), MARGIN + (i // COLUMNS) * (height + CAPTION)
        sheet.paste(panorama.image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + height + 4), prompt, fill="black", font=font)
        print(f"{prompt}: seam ratio {panorama.seam.ratio:.2f}")
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output, quality=92)
    print(f"Written: {output}")


if __name__ == "__main__":
    typer.run(main)
