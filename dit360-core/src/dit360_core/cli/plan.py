"""``dit360 plan``: what a picture will take, phase by phase, before anything is downloaded or loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import reporting
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions

_ONCE = ("prompt", "attention_backend", "attention_slice_size", "log_memory_stats")
DOES_NOT_FIT = 1
"""Exit code; that of bad input is 2."""


def command() -> Callable[..., None]:
    """The command, with the signature of the three option classes."""

    def plan(size: str | None, with_photo: bool, as_json: bool, **options: Any) -> None:
        with reporting():
            from dit360_core.cli.work.plan import run

            fits = run(size, with_photo, as_json, options)
        if fits is False:
            raise typer.Exit(DOES_NOT_FIT)

    plan.__doc__ = (
        "Tell whether a picture fits, and what it takes, in memory and time: from configurations, no weights are read. "
        "Exit code 1 if it does not fit."
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    plan.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                "size",
                keyword,
                default=None,
                annotation=Annotated[
                    str | None,
                    typer.Option(
                        "--size", help="Width×height in pixels, such as 2048x1024.", show_default="the model's"
                    ),
                ],
            ),
            inspect.Parameter(
                "with_photo",
                keyword,
                default=False,
                annotation=Annotated[
                    bool,
                    typer.Option(
                        "--with-photo", help="Around a photo or a part that is kept, which some models see too."
                    ),
                ],
            ),
            inspect.Parameter(
                "as_json",
                keyword,
                default=False,
                annotation=Annotated[bool, typer.Option("--json", help="For programs.")],
            ),
            *parameters(LoadOptions),
            *parameters(SampleOptions, leave_out=_ONCE),
            *parameters(DecodeOptions),
        ]
    )
    plan.__annotations__ = {p.name: p.annotation for p in inspect.signature(plan).parameters.values()}
    return plan
