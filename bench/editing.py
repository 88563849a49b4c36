"""Photos and edits by the embedded model, measured: what is kept, borders, the seam, what it costs, what is made.

    PYTHONPATH=. python bench/editing.py photos      # 64 views become panoramas (20 minutes on two cores)
    PYTHONPATH=. python bench/editing.py edits       # 32 edits in four ways (half an hour)
    PYTHONPATH=. python bench/editing.py official ../DiT360    # the same by the official script, four of them
    PYTHONPATH=. python bench/editing.py time        # an edit's time beside a plain picture's, in turns
    PYTHONPATH=. python bench/editing.py pictures    # those of docs/editing.md

Each part but the last writes its table into docs/editing.md. The panoramas are renders that the model never saw, with
their captions as prompts. The official script is that of https://github.com/Insta360-Research-Team/DiT360, whose
``pa_src`` is run as its ``editing.py`` runs it.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import attrs
import dit360_core as dit360
import torch
import typer
from dit360_core.options import EditOptions
from dit360_core.panorama.metrics import seam_ratio
from dit360_core.pipeline.editing.canvas import Canvas, canvas_of
from dit360_core.pipeline.editing.given import given
from dit360_core.pipeline.editing.pasting import pasted
from dit360_core.pipeline.planes import image_of, pixels_of
from dit360_core.sphere.camera import Camera
from dit360_core.sphere.distance import distance
from dit360_core.sphere.views import onto_sphere, view
from editing_measures import contours, decibels, ordinary_step
from overhead import paired
from PIL import Image, ImageChops, ImageDraw

from training import judge
from training.captions import caption
from training.data import HELD_OUT_SEED
from training.render import render, to_uint8
from training.scenes import Scene, draw

ROOT = Path(__file__).parents[1]
PAGE, IMAGES = ROOT / "docs" / "editing.md", ROOT / "docs" / "images"
ROWS = ROOT / "docs" / "editing-cpu.json"
SIZE = (512, 256)
PIXEL = 360 / SIZE[0]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
Steps = Annotated[int | None, typer.Option(help="Sampling steps; the model's where none are given.")]


def rendered(scene: Scene) -> Image.Image:
    """Its panorama."""
    return Image.fromarray(to_uint8(render([scene], SIZE[1], SIZE[0]))[0].contiguous().numpy())


def written(name: str, lines: Iterable[str]) -> None:
    """A part's table, in its place in the page."""
    begin, end = f"<!-- {name}: written by bench/editing.py {name} -->", f"<!-- end of {name} -->"
    text = "\n".join(lines)
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    print(text)


# -------------------------------------------------------------------------------------------------------------- photos


def photo_of(panorama: Image.Image, camera: Camera) -> dit360.Photo:
    """What a camera sees of a panorama."""
    seen = image_of(view(pixels_of(panorama), camera))
    return dit360.Photo(seen, fov=camera.fov, yaw=camera.yaw, pitch=camera.pitch, roll=camera.roll)


@app.command()
def photos(
    count: Annotated[int, typer.Option(help="Renders.")] = 64,
    steps: Steps = None,
) -> None:
    """A view of 90 degrees is cut out of each render, and its panorama is made from the view and the caption."""
    pipe, rows, made, scenes = dit360.load("tiny"), [], [], []
    for number in range(count):
        dice = random.Random(number)
        scene = draw(HELD_OUT_SEED + number)
        panorama = rendered(scene)
        camera = Camera(
            width=256, height=256, fov=90, yaw=dice.uniform(-180, 180), pitch=dice.uniform(-20, 20),
            roll=dice.uniform(-10, 10),
        )  # fmt: skip
        photo, prompt = photo_of(panorama, camera), caption(scene, random.Random(number))
        canvas = canvas_of(given(None, None, photo), SIZE)
        truth = pixels_of(panorama)
        inside = onto_sphere(pixels_of(photo.image), camera, SIZE[1])[1] == 1
        hold = dit360.Hold(latents=pipe.encode_image(canvas.picture), keep=canvas.keep)
        sampled = pipe.sample(pipe.encode(prompt), hold=hold, seed=number, **_steps(steps))
        before = pipe.decode_pixels(sampled).tensor
        after = pasted(before, canvas, match=True)[0]
        own = pipe.decode_pixels(pipe.encode_image(panorama)).tensor[0]
        rows.append({
            "own": decibels(own, truth, inside),
            "before": decibels(before[0], truth, inside),
            "after": decibels(after, truth, inside),
            "seam": seam_ratio(image_of(after)),
        })  # fmt: skip
        made.append(after)
        scenes.append(scene)
        print(number, prompt, {name: round(value, 2) for name, value in rows[-1].items()}, flush=True)
    agreement = judge.accuracy(judge.load(), 2 * torch.stack(made) - 1, scenes)
    originals = torch.stack([pixels_of(rendered(scene)) for scene in scenes])
    of_renders = judge.accuracy(judge.load(), 2 * originals - 1, scenes)
    mean = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    written("photos", [
        f"| {count} views of 90° | |",
        "|---|---|",
        f"| autoencoder alone, inside the view | {mean['own']:.1f} dB |",
        f"| made, before paste back | {mean['before']:.1f} dB |",
        f"| made, after paste back | {mean['after']:.1f} dB |",
        f"| seam ratio, median | {statistics.median(row['seam'] for row in rows):.2f} |",
        *(
            f"| the judge sees the render's {name} | {agreement[name]:.0%} (in the renders themselves "
            f"{of_renders[name]:.0%}) |"
            for name in ("time", "ground")
        ),
    ])  # fmt: skip


def _steps(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"steps": steps}


# --------------------------------------------------------------------------------------------------------------- edits


@attrs.frozen(kw_only=True)
class Task:
    """One edit: a render, what is made anew, and the prompt of what is to be there."""

    panorama: Image.Image
    mask: Image.Image
    prompt: str
    seed: int


def task(number: int) -> Task:
    """The landmark of a scene is removed: an ellipse, every fourth over the meridian, every eighth around a pole."""
    dice = random.Random(number)
    drawn = (draw(HELD_OUT_SEED + 1000 * (number + 1) + again) for again in itertools.count())
    scene = next(scene for scene in drawn if scene.kind == "outdoor" and scene.landmark != "none")
    mask = Image.new("L", SIZE)
    if number % 8 == 7:
        ImageDraw.Draw(mask).rectangle((0, 0, SIZE[0], dice.randint(20, 50)), fill=255)
    else:
        width, height = dice.randint(80, 180), dice.randint(60, 120)
        top = dice.randint(40, 200 - height)
        ImageDraw.Draw(mask).ellipse((256 - width // 2, top, 256 + width // 2, top + height), fill=255)
        mask = ImageChops.offset(mask, 256 if number % 4 == 3 else dice.randint(0, 511), 0)
    without = Scene(**{**scene.to_dict(), "landmark": "none"})
    return Task(panorama=rendered(scene), mask=mask, prompt=caption(without, random.Random(number)), seed=number)


Maker = Callable[[Task], tuple[torch.Tensor, Image.Image]]
"""(pixels of the picture, the mask whose border is looked at)."""


def ours(pipe: dit360.Pipeline, steps: int | None, *, feather: bool = True, **options: Any) -> Maker:
    """The framework's, with options.

    feather: whether what is kept passes into what is made where it is pasted.
    """

    def make(edit: Task) -> tuple[torch.Tensor, Image.Image]:
        canvas = canvas_of(given(edit.panorama, edit.mask, None, EditOptions(**options)), SIZE)
        hold = dit360.Hold(latents=pipe.encode_image(canvas.picture), keep=canvas.keep)
        sampled = pipe.sample(pipe.encode(edit.prompt), hold=hold, seed=edit.seed, **_steps(steps))
        decoded = pipe.decode_pixels(sampled).tensor
        if not feather:
            canvas = hard(canvas)
        return pasted(decoded, canvas, match=feather and options.get("match_colours", True))[0], edit.mask

    return make


def hard(canvas: Canvas) -> Canvas:
    """Pasted up to where the hole begins, without a feather."""
    return attrs.evolve(canvas, paste=(canvas.made == 0).float())


@app.command()
def edits(
    count: Annotated[int, typer.Option(help="Edits.")] = 32,
    steps: Steps = None,
) -> None:
    """Something is removed from each render, in several ways."""
    pipe = dit360.load("tiny")
    makers: dict[str, Maker] = {
        "default": ours(pipe, steps),
        "default, before paste back": ours(pipe, steps, paste_back=False),
        "a hard mask": ours(pipe, steps, feather=False, mask_grow=0.0, mask_soften=0.0),
        "a hard mask, before paste back": ours(pipe, steps, mask_grow=0.0, mask_soften=0.0, paste_back=False),
    }
    rows = {
        "the renders themselves": [source(task(number)) for number in range(count)],
        "made plainly from the prompts": [plainly(pipe, task(number), steps) for number in range(count)],
        **{name: all_of(name, make, count) for name, make in makers.items()},
    }
    tabled({name: row(name, found) for name, found in rows.items()})


@app.command()
def official(
    checkout: Annotated[Path, typer.Argument(help="A checkout of DiT360, whose script is measured.")],
    count: Annotated[int, typer.Option(help="Edits.")] = 4,
) -> None:
    """The same by the official script, which takes its time."""
    from editing_official import Official

    name = "the official script"
    tabled({name: row(name, all_of(name, Official(checkout).edit, count))})


def all_of(name: str, make: Maker, count: int) -> list[Found]:
    """What is measured of so many edits."""
    found = []
    for number in range(count):
        found.append(measured(task(number), *make(task(number))))
        print(name, number, found[-1], flush=True)
    return found


def tabled(rows: dict[str, str]) -> None:
    """The table, with the rows that were measured before."""
    known = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.is_file() else {}
    known |= rows
    ROWS.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    head = "| | largest step near the border | kept pixels are off by, median | seam ratio, median | edits |"
    written("edits", [head, "|---|---|---|---|---|", *known.values()])


@attrs.frozen(kw_only=True)
class Found:
    """What was measured of one edit; None: it says nothing.

    steps: across the contours near the border.
    ordinary: the step between any two neighbours.
    off: the mean difference of what is kept.
    seam: the seam ratio.
    """

    steps: dict[int, float] = attrs.field(factory=dict)
    ordinary: float = 0.0
    off: float | None = None
    seam: float


def source(edit: Task) -> Found:
    """A render as it is: the largest step where the border would be."""
    return measured(edit, pixels_of(edit.panorama), edit.mask)


def plainly(pipe: dit360.Pipeline, edit: Task, steps: int | None) -> Found:
    """The seam of a picture that keeps nothing."""
    made = pipe.generate(edit.prompt, width=SIZE[0], seed=edit.seed, **_steps(steps))
    return Found(seam=made.seam.ratio)


def measured(edit: Task, made: torch.Tensor, mask: Image.Image) -> Found:
    """The steps near the border, how far what is kept is off, and the seam ratio."""
    hole = pixels_of(mask.convert("RGB"))[0] >= 0.5
    away = distance(hole, 180.0) / PIXEL - distance(~hole, 180.0) / PIXEL
    far = away >= 40  # where every way keeps everything
    return Found(
        steps=contours(made, away),
        ordinary=ordinary_step(made),
        off=float((made - pixels_of(edit.panorama))[:, far].abs().mean()),
        seam=seam_ratio(image_of(made)),
    )


def row(name: str, found: list[Found]) -> str:
    """Of the table. Steps are means over all edits, contour by contour, since scenes have edges of their own."""
    levels = sorted({level for one in found for level in one.steps})
    ordinary = statistics.mean(one.ordinary for one in found)
    means = [statistics.mean(one.steps[level] for one in found if level in one.steps) / ordinary for level in levels]
    off = [one.off for one in found if one.off is not None]
    seam = statistics.median(one.seam for one in found)
    print(name, [round(mean, 2) for mean in means], flush=True)
    return (
        f"| {name} | {f'{max(means):.2f}' if means else '–'} | {f'{statistics.median(off):.4f}' if off else '–'} | "
        f"{seam:.2f} | {len(found)} |"
    )


# ---------------------------------------------------------------------------------------------------------------- time


@app.command(name="time")
def timed(
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 15,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 12,
) -> None:
    """Sampling with a hold and without one, in turns; whole pictures too."""
    pipe, edit = dit360.load("tiny"), task(0)
    canvas = canvas_of(given(edit.panorama, edit.mask), SIZE)
    hold = dit360.Hold(latents=pipe.encode_image(canvas.picture), keep=canvas.keep)
    told, asked = pipe.encode(edit.prompt), {"seed": 1, "steps": steps}
    counted = [
        pipe.sample(told, **kept, **asked).settings["used"]["evaluations"]  # type: ignore[index]
        for kept in ({"width": SIZE[0]}, {"hold": hold})
    ]
    sampling = paired(
        lambda: pipe.sample(told, width=SIZE[0], **asked), lambda: pipe.sample(told, hold=hold, **asked), rounds
    )
    whole = paired(
        lambda: pipe.generate(edit.prompt, width=SIZE[0], **asked),
        lambda: pipe.generate(edit.prompt, image=edit.panorama, mask=edit.mask, **asked),
        rounds,
    )
    written("time", [
        f"| {SIZE[0]}×{SIZE[1]}, {steps} steps, {rounds} rounds in turn | plain | edit | edit / plain |",
        "|---|---|---|---|",
        f"| evaluations of the model | {counted[0]} | {counted[1]} | {counted[1] / counted[0]:.2f} |",
        *(
            f"| {name} | {found['theirs']:.2f} s | {found['ours']:.2f} s | {found['median']:.3f} |"
            for name, found in (("sampling", sampling), ("the whole picture", whole))
        ),
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ pictures


@app.command()
def pictures(
    official: Annotated[Path | None, typer.Option(help="A checkout of DiT360, for the official script's edit.")] = None,
) -> None:
    """Those of docs/editing.md."""
    from editing_pictures import edit_page, photo_page

    pipe = dit360.load("tiny")
    photo_page(pipe, IMAGES / "editing-photo.jpg", rendered, photo_of)
    edit_page(ours(pipe, None), IMAGES / "editing-removed.jpg", task, official)


if __name__ == "__main__":
    app()
