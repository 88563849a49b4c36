"""``dit360 bench``: which options are worth it on this machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dit360_core.cli.flags import parameters
from dit360_core.cli.output import told
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, build

if TYPE_CHECKING:
    from rich.console import Console

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
        with told() as console:
            report = _run(console, vary or [], rounds, apart, output, force, options)
            _show(report, output)
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
            *parameters(SampleOptions, "Picture", leave_out=_OWN),
            *parameters(LoadOptions, "Model and backends", leave_out=("strict",)),
            *parameters(DecodeOptions, "Decoding"),
        ]
    )
    bench.__annotations__ = {p.name: p.annotation for p in inspect.signature(bench).parameters.values()}
    return bench


def _run(
    console: Console,
    vary: list[str],
    rounds: int,
    apart: bool,
    output: Path | None,
    force: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    from rich.text import Text

    from dit360_core.cli.benching.comparing import measure, write_report
    from dit360_core.cli.benching.varying import Configuration, configurations
    from dit360_core.plugins.registry import default_registry
    from dit360_core.system.atomic import check_writable

    picture = {name: value for name, value in options.items() if not name.startswith("attention_")}
    baseline = Configuration(
        # A kernel that fell back to another would be measured under the wrong name; so it fails.
        loading=build(LoadOptions, {**_of(LoadOptions, options), "strict": True}),
        sampling=build(SampleOptions, _of(SampleOptions, picture)),
        decoding=build(DecodeOptions, _of(DecodeOptions, options)),
    )
    compared = configurations(baseline, vary, default_registry())
    if output is not None:
        check_writable(output, force=force)
    with console.status("") as status:
        report = measure(compared, rounds, apart=apart, told=lambda doing: status.update(Text(doing)))
    report["settings"]["vary"] = vary
    if output is not None:
        write_report(report, output, force=force)
    return report


def _of(cls: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    return {field.name: options[field.name] for field in attrs.fields(cls) if field.name in options}


def _show(report: Mapping[str, Any], output: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    apart, found = report["settings"]["apart"], report["configurations"]
    shown: tuple[str, ...] = ("step", "whole")
    if any(_of_decoding(name) for one in found for name in one["changed"]):
        shown = ("step", "decode", "whole")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("configuration", overflow="fold")
    for name in shown:
        table.add_column("whole picture" if name == "whole" else name, justify="right", no_wrap=True)
        table.add_column("of medians" if apart else "ratio", justify="right", no_wrap=True)
    for name in ("peak memory", "picture"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(one["name"], *(["failed"] if one["failed"] else _cells(one, shown, one is found[0])))
    console = Console(highlight=False, markup=False)
    # Wider than a narrow terminal rather than with half a number in each cell.
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    for one in found:
        if one["failed"]:
            console.print(f"{one['name']} failed: {one['failed']}", soft_wrap=True)
    if apart and len(found) > 1:
        console.print(
            "Each ran alone, one after the other: the ratios are of medians, and hold what the machine did meanwhile.",
            soft_wrap=True,
        )
    if output is not None:
        console.print(f"Saved {output}.", soft_wrap=True)


def _of_decoding(name: str) -> bool:
    return name == "vae" or name.startswith("vae_") or name in [field.name for field in attrs.fields(DecodeOptions)]


def _cells(one: Mapping[str, Any], shown: tuple[str, ...], is_base: bool) -> list[str]:
    """A row: seconds and ratio of what is shown, the ratio of steps with its quartiles; memory; picture."""
    cells = []
    for name in shown:
        cells.append(f"{one['medians'][name]:.3g} s" if name in one["medians"] else "")
        ratio = one["ratios"].get(name)
        cells.append("1" if is_base else f"{ratio['median']:.3f}" if ratio else "")
        if ratio and ratio["quartiles"] and name != "whole":
            cells[-1] += " ({:.2f} … {:.2f})".format(*ratio["quartiles"])
    memory = one["memory"]["cuda"] or one["memory"]["resident"]
    return [*cells, f"{memory['peak'] / 2**20:.0f} MiB", _picture(one, is_base)]


def _picture(one: Mapping[str, Any], is_base: bool) -> str:
    if is_base:
        return ""
    if one["picture"] is None:
        return "not comparable"
    return "same" if one["picture"]["same"] else f"{one['picture']['psnr']:.1f} dB"
