"""``dit360-comfy``: puts the nodes into a ComfyUI, takes them out, and says what is amiss.

Importing this imports neither torch nor any node.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
import typer
from dit360_core.cli.output import reporting, show_what_can_be_shown

if TYPE_CHECKING:
    from dit360_comfy.diagnosis import Check

app = typer.Typer(
    name="dit360-comfy",
    help="dit360 in ComfyUI: puts the nodes there, takes them out, and says what is amiss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Folder = Annotated[
    Path | None,
    typer.Option(
        "--comfyui",
        metavar="DIR",
        envvar="COMFYUI_DIR",
        help="ComfyUI's folder, the portable folder around it, or a base directory.",
        show_default="the current folder",
    ),
]


@app.command()
def install(
    comfyui: _Folder = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the files, for a file system without links; repeat after upgrades.")
    ] = False,
) -> None:
    """Put the nodes into ComfyUI: a link in custom_nodes. Safe to repeat."""
    with reporting() as console:
        from dit360_comfy import installing
        from dit360_comfy.diagnosis import interpreter, refuse_too_old

        comfy = installing.locate(comfyui, Path.cwd())
        refuse_too_old(comfy)
        typer.echo(installing.install(comfy, copy=copy))
        python = interpreter(comfy)
        warnings = installing.others(comfy)
        if python.state != "ok":
            warnings.append(f"{python.told}; {python.todo}")
        for warning in warnings:
            console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
        typer.echo("Restart ComfyUI; the nodes are under 'dit360' in the menu that adds nodes,")
        typer.echo("and workflows to start from under Workflow → Browse templates → dit360-comfy.")


@app.command()
def uninstall(comfyui: _Folder = None) -> None:
    """Take the nodes out of ComfyUI. What this command did not put there stays."""
    with reporting():
        from dit360_comfy import installing

        typer.echo(installing.uninstall(installing.locate(comfyui, Path.cwd())))


@app.command()
def doctor(
    comfyui: _Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check ComfyUI, the nodes in it, and this Python. Exit code 1 if the nodes cannot work."""
    with reporting(logging.ERROR):
        from dit360_core.errors import InputError

        from dit360_comfy import installing
        from dit360_comfy.diagnosis import examine

        try:
            comfy = installing.locate(comfyui, Path.cwd())
        except InputError:
            if comfyui is not None:
                raise
            comfy = None
        checks = examine(comfy)
        failed = any(check.state == "fail" for check in checks)
        if as_json:
            report = {
                "comfyui": str(comfy.root) if comfy else None,
                "ok": not failed,
                "checks": [attrs.asdict(check) for check in checks],
            }
            typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            _show(checks)
        if failed:
            raise typer.Exit(1)


def _show(checks: Sequence[Check]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for check in checks:
        style = {"warn": "yellow", "fail": "red"}.get(check.state)
        console.print(f"{check.state:<5} {check.name:<13} {check.told}", style=style)
        if check.todo:
            console.print(f"{'':<19} → {check.todo}", style=style)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dit360-comfy {version('dit360-comfy')}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Entry point of the ``dit360-comfy`` command."""
    show_what_can_be_shown()
    app()
