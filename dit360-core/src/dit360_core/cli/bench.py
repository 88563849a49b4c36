"""``dit360 bench``: which options are worth it on this machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import reporting
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions

PROMPT = "a castle above a meadow at sunset"
ALL_FAILED = 1
# denoise: there is no picture to begin with. The others have a flag of their own below, or one of loading.
_OWN = ("prompt", "seed", "denoise", "attention_backend", "attention_slice_size")


def command() -> Callable[..., None]:
    """The command, with the signature of the three option classes."""

    def bench(
        vary: list[str] | None,
        rounds: int,
        apart: bool,
        output: Path | None,
        force: bool,
        **options: Any,
    ) -> None:
        with reporting() as console:
            from dit360_core.cli.work.bench import run, show

            report = run(console, vary or [], rounds, apart, output, force, options)
            show(report, output)
        if all(one["failed"] for one in report["configurations"]):
            raise typer.Exit(ALL_FAILED)

    bench.__doc__ = (
        "Compare configurations on this machine: time, memory and picture, side by side, in processes of their own."
    )

    def own(name: str, kind: Any, default: Any, declared: Any) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
        )

    bench.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            own(
                "vary",
                list[str] | None,
                None,
                typer.Option(
                    "--vary",
                    help="What to compare with: NAME=VALUE[,VALUE…], an option of below, each value by itself; "
                    "NAME=VALUE+NAME=VALUE changes several together. May be given again.",
                    show_default=False,
                ),
            ),
            own("rounds", int, 5, typer.Option("--rounds", min=1, help="How often each makes its picture.")),
            own(
                "apart",
                bool,
                False,
                typer.Option(
                    "--apart", help="One after the other, each alone in memory; less exact, since not side by side."
                ),
            ),
            own(
                "output",
                Path | None,
                None,
                typer.Option("--output", "-o", help="JSON file to write, with every number.", show_default="none"),
            ),
            own("force", bool, False, typer.Option("--force", help="Replace the file if it exists.")),
            own("prompt", str, PROMPT, typer.Option("--prompt", help="What it shows.", rich_help_panel="Picture")),
            own(
                "seed",
                int,
                1,
                typer.Option("--seed", help="Of every configuration's picture.", rich_help_panel="Picture"),
            ),
            *parameters(SampleOptions, leave_out=_OWN),
            *parameters(LoadOptions, leave_out=("strict",)),
            *parameters(DecodeOptions),
        ]
    )
    bench.__annotations__ = {p.name: p.annotation for p in inspect.signature(bench).parameters.values()}
    return bench
