"""Makes the README's picture and the model card's contact sheet, as `dit360 generate` makes panoramas.

make gallery
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import dit360_core as dit360
import typer
from PIL import Image, ImageDraw, ImageFont

HERO = (
    "a castle above a meadow at sunset",
    "a calm sea under a starry night sky",
    "snowy mountains at noon",
    "a desert at dawn",
    "a city skyline at night across the water",
    "a forest in fog",
)
CONTACT = (
    *HERO,
    "a bedroom with blue walls and a wooden floor",
    "a living room with a sofa and red walls at night",
    "a library room with books and a carpet",
    "a dining room with yellow walls and a tiled floor",
    "a stone plaza with an old castle under a cloudy sky",
    "a city around a paved square at midday under a clear blue sky",
    "a green meadow and mountains under white clouds",
    "the ocean at sunset with glowing clouds",
    "a forest behind a snowy field at dawn under pink clouds",
    "a snowy field at night with a full moon",
    "a modern city in the desert at sunset",
    "mountains beyond a lake in the early morning",
    "a castle in falling snow",
    "trees around a lawn in bright daylight",
    "an old castle on a hill by the sea, at midnight, lit by the moon",
    "a grassy field under an overcast sky",
    "stone pavement and skyscrapers in thick fog",
    "a desert with rocky mountains at noon",
)
CONTACT_SHEET = Path(str(resources.files("dit360_core") / "models" / "shipped" / "tiny" / "contact-sheet.jpg"))
MARGIN, CAPTION = 12, 26


def paint(pipe: dit360.Pipeline, prompts: Sequence[str], columns: int, width: int, seed: int) -> Image.Image:
    """Every prompt with the same seed, nothing picked, `columns` panoramas of `width` pixels in a row."""
    height = width // 2
    rows = -(-len(prompts) // columns)
    size = (columns * (width + MARGIN) + MARGIN, rows * (height + CAPTION) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, prompt in enumerate(prompts):
        panorama = pipe.generate(prompt, seed=seed)
        x, y = MARGIN + (i % columns) * (width + MARGIN), MARGIN + (i // columns) * (height + CAPTION)
        sheet.paste(panorama.image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + height + 4), prompt, fill="black", font=font)
        print(f"{prompt}: seam ratio {panorama.seam.ratio:.2f}")
    return sheet


def main(
    hero: Annotated[Path, typer.Option(help="The README's picture.")] = Path("docs/images/gallery.jpg"),
    contact: Annotated[Path, typer.Option(help="The model card's contact sheet.")] = CONTACT_SHEET,
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Paint both sheets."""
    pipe = dit360.load("tiny")
    for path, prompts, columns, width, quality in ((hero, HERO, 2, 512, 92), (contact, CONTACT, 3, 400, 85)):
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(pipe, prompts, columns, width, seed).save(path, quality=quality)
        print(f"Written: {path}")


if __name__ == "__main__":
    typer.run(main)
