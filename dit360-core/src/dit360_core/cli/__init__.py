"""The command line: ``dit360 generate | batch | plan | quantize | bench | backends | doctor | view | inspect |
new-plugin``.

Importing this builds the commands and their help; torch, diffusers and rich's heavier parts are imported by the
commands that need them, so that ``--help`` is immediate.
"""

from __future__ import annotations

import signal
from types import FrameType

import typer

from dit360_core.cli import batch, bench, doctor, generate, new_plugin, picture, plan, quantize, registered
from dit360_core.cli.output import Terminated, show_what_can_be_shown
from dit360_core.cli.usage import Command, Group

app = typer.Typer(
    name="dit360",
    cls=Group,
    help="360° panoramas with diffusion transformers, on the machine you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("generate", cls=Command)(generate.command())
app.command("batch", cls=Command)(batch.command())
app.command("plan", cls=Command)(plan.command())
app.command("quantize", cls=quantize.Command)(quantize.quantize)
app.command("bench", cls=Command)(bench.command())
app.command("backends", cls=Command)(registered.backends)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("view", cls=Command)(picture.view)
app.command("inspect", cls=Command)(picture.inspect)
app.command("new-plugin", cls=Command)(new_plugin.new_plugin)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dit360 {version('dit360-core')}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_version, is_eager=True),
) -> None:
    pass


def _terminated(number: int, frame: FrameType | None) -> None:
    # Unwinds the stack, so that a file that is being written is removed.
    raise Terminated


def main() -> None:
    """Entry point of the ``dit360`` command."""
    signal.signal(signal.SIGTERM, _terminated)
    show_what_can_be_shown()
    app()
