"""The command line, ``dit360 COMMAND``.

Importing this builds the commands and their help; torch, diffusers and rich's heavier parts are imported by the
commands that need them, so that ``--help`` is immediate.
"""

from __future__ import annotations

import signal
import sys
import time
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from dit360_core.cli import (
    batch,
    bench,
    doctor,
    export,
    generate,
    new_plugin,
    picture,
    plan,
    precedence,
    profile,
    quantize,
    registered,
    serve,
    upscale,
)
from dit360_core.cli.output import (
    BAD_INPUT,
    TERMINATED,
    Terminated,
    harmless,
    show_what_can_be_shown,
    telling_of_stdout,
)
from dit360_core.cli.usage import Command, Group
from dit360_core.errors import InputError

app = typer.Typer(
    name="dit360",
    cls=Group,
    help="360° panoramas with diffusion transformers, on the machine you have.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command("generate", cls=Command)(generate.command())
app.command("upscale", cls=Command)(upscale.command())
app.command("batch", cls=Command)(batch.command())
app.command("serve", cls=Command)(serve.command())
app.command("plan", cls=Command)(plan.command())
app.command("quantize", cls=Command)(quantize.command())
app.command("bench", cls=Command)(bench.command())
app.command("backends", cls=Command)(registered.backends)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("view", cls=Command)(picture.view)
app.command("export", cls=Command)(export.export)
app.command("import", cls=Command)(export.import_)
app.command("inspect", cls=Command)(picture.inspect)
app.command("new-plugin", cls=Command)(new_plugin.new_plugin)


def _version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:  # a shell asks what completes a word
        typer.echo(f"dit360 {metadata.version('dit360-core')}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_version, is_eager=True),
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of defaults, instead of your own.", show_default=False),
    ] = None,
) -> None:
    commands: Any = context.command
    try:
        found = profile.read(config)
        if found is not None:
            context.default_map = profile.defaults(*found, commands.commands)
            context.meta[precedence.FILE] = found[0]
    except profile.NotAsked as warning:
        typer.secho(f"Warning: {harmless(str(warning))}", err=True, fg="yellow")
    except InputError as error:
        typer.secho(f"Error: {harmless(str(error))}", err=True, fg="red")
        if context.invoked_subcommand == "doctor" or {"-h", "--help", "--help-all"} & set(sys.argv):
            return  # which are to help with just this
        raise typer.Exit(BAD_INPUT) from error


CLEARING = 3.0
"""Seconds in which a second signal does not disturb what the first has begun: half-written files are removed."""


class _Signals:
    """Unwinds the stack, so that a file that is being written is removed."""

    def __init__(self) -> None:
        self.terminated = False
        self._last: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.terminated = self.terminated or number == signal.SIGTERM
        now = time.monotonic()
        if self._last is not None and now - self._last < CLEARING:
            return
        self._last = now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def main() -> None:
    """Entry point of the ``dit360`` command."""
    signals = _Signals()
    try:
        signal.signal(signal.SIGTERM, signals)
        before = signal.getsignal(signal.SIGINT)
        # Else somebody has switched it off. Another run's in this process would still wait for what that one cleared.
        if before is signal.default_int_handler or isinstance(before, _Signals):
            signal.signal(signal.SIGINT, signals)
        show_what_can_be_shown()
        with telling_of_stdout():
            app()
    except Terminated:
        sys.exit(TERMINATED)
    except SystemExit:
        # typer takes a signal that comes before a command's body for Ctrl-C.
        if signals.terminated:
            sys.exit(TERMINATED)
        raise
