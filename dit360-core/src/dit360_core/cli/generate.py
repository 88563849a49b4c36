"""``dit360 generate PROMPT -o FILE``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters, saving_parameters
from dit360_core.cli.output import harmless, reporting
from dit360_core.cli.several import names_of
from dit360_core.cli.wording import current, take_back, worded
from dit360_core.errors import InputError, named
from dit360_core.options import DecodeOptions, EditOptions, LoadOptions, PhotoOptions, SampleOptions

# One command loads and samples once, so the per-picture overrides of load options would only be second names for them.
_ONCE = ("prompt", "attention_backend", "attention_slice_size")


def _like(
    console: Any,
    like: Path,
    prompt: str | None,
    image: Path | None,
    mask: Path | None,
    photo: list[str] | None,
    options: dict[str, Any],
) -> tuple[str | None, dict[str, Any]]:
    """The prompt and the options, with those of a picture where the command line says nothing."""
    from dit360_core.cli import likeness  # reads pictures, which takes Pillow

    given = current().given
    beside = likeness.Beside(
        prompt=prompt is not None,
        image=image is not None,
        mask=mask is not None,
        photos=tuple(photo or ()),
        typed={name: value for name, value in options.items() if name in given},
    )
    found, sentences = likeness.options_like(like, beside)
    for sentence in sentences:
        # What it quotes of the picture may be a stranger's.
        console.print(harmless(worded(sentence)), markup=False, soft_wrap=True)
    words = prompt if prompt is not None else found.pop("prompt")
    # Before the defaults of a user's own, too: what the picture leaves at a default is that.
    told = {**likeness.defaults(), **found}
    return words, {**options, **{name: value for name, value in told.items() if name in options and name not in given}}


def command() -> Callable[..., None]:
    """The command, with the signature of the three option classes."""

    def generate(
        prompt: str | None,
        output: Path,
        count: int,
        like: Path | None,
        image: Path | None,
        mask: Path | None,
        photo: list[str] | None,
        bits: int | None,
        expand_highlights: bool,
        force: bool,
        open_viewer: bool,
        profile: Path | None,
        server: str,
        preview: bool,
        verbose: bool,
        **options: Any,
    ) -> None:
        with reporting(logging.INFO if verbose else logging.WARNING) as console:
            saving = {"bits": bits, "expand_highlights": expand_highlights, "force": force}
            if like is not None:
                own = options
                prompt, options = _like(console, like, prompt, image, mask, photo, own)
                take_back([name for name, value in options.items() if value != own[name]])
            assert prompt is not None  # one of both is there: usage.py
            if server not in ("auto", "never"):
                raise InputError(f"{named('server')} is {server!r:.40}, but must be one of: auto, never.")
            done = 0
            if server == "auto" and profile is None and not options["log_memory_stats"]:
                from dit360_core.cli.work.remote import made

                done = made(console, prompt, output, count, image, mask, photo or (), saving, preview, options)
                if done == count:
                    if open_viewer:
                        from dit360_core.cli.work.picture import show

                        show(console, names_of(output, count)[-1], None, True, False, yaw=None, pitch=None, fov=None)
                    return
            from dit360_core.cli.work.generate import run

            run(
                console, prompt, output, count, image, mask, photo or (), saving, open_viewer, profile, preview,
                options, made=done,
            )  # fmt: skip

    generate.__doc__ = (
        "Make a panorama from a prompt and save it (JPEG, WebP, PNG, AVIF, TIFF or OpenEXR, by the file's ending)."
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                "prompt",
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None,
                annotation=Annotated[str | None, typer.Argument(help="What the panorama shows.", show_default=False)],
            ),
            inspect.Parameter(
                "output",
                keyword,
                default=Path("panorama.jpg"),
                annotation=Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
            ),
            inspect.Parameter(
                "count",
                keyword,
                default=1,
                annotation=Annotated[
                    int,
                    typer.Option(
                        "--count", "-n", help="Pictures, with seeds that count up.", min=1, max=1000, show_default=False
                    ),
                ],
            ),
            inspect.Parameter(
                "like",
                keyword,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(
                        "--like", help="Picture whose prompt, seed and options are taken, but for those given."
                    ),
                ],
            ),
            inspect.Parameter(
                "image",
                keyword,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(
                        "--image",
                        help="Panorama to begin with: --mask or --region says what is made anew, or --denoise how much "
                        "of all.",
                    ),
                ],
            ),
            inspect.Parameter(
                "mask",
                keyword,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(
                        "--mask", help="Picture that is white where the image is made anew; the rest stays as it is."
                    ),
                ],
            ),
            inspect.Parameter(
                "photo",
                keyword,
                default=None,
                annotation=Annotated[
                    list[str] | None,
                    typer.Option(
                        "--photo",
                        help='Photo that the panorama is made around; several: "b.jpg;fov=60;yaw=90".',
                        metavar="FILE",
                        show_default=False,
                    ),
                ],
            ),
            *saving_parameters(),
            inspect.Parameter(
                "force",
                keyword,
                default=False,
                annotation=Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")],
            ),
            inspect.Parameter(
                "open_viewer",
                keyword,
                default=False,
                annotation=Annotated[bool, typer.Option("--open", help="Look around in the browser afterwards.")],
            ),
            inspect.Parameter(
                "profile",
                keyword,
                default=None,
                annotation=Annotated[
                    Path | None,
                    typer.Option(
                        "--profile", help="Timeline of memory and time to write, an HTML file.", show_default=False
                    ),
                ],
            ),
            inspect.Parameter(
                "server",
                keyword,
                default="auto",
                annotation=Annotated[
                    str,
                    typer.Option(
                        "--server",
                        help="Let a 'dit360 serve' that has this model make the picture, if one runs.",
                        metavar="auto|never",
                    ),
                ],
            ),
            inspect.Parameter(
                "preview",
                keyword,
                default=False,
                annotation=Annotated[
                    bool, typer.Option("--preview", help="Show the picture in the terminal as it comes.")
                ],
            ),
            inspect.Parameter(
                "verbose",
                keyword,
                default=False,
                annotation=Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is used and why.")],
            ),
            *parameters(SampleOptions, leave_out=_ONCE),
            *parameters(PhotoOptions),
            *parameters(EditOptions),
            *parameters(LoadOptions),
            *parameters(DecodeOptions),
        ]
    )
    generate.__annotations__ = {p.name: p.annotation for p in inspect.signature(generate).parameters.values()}
    return generate
