"""``dit360 new-plugin KIND NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit360_core.cli.output import told
from dit360_core.plugins.hookspecs import KINDS


def new_plugin(
    kind: Annotated[
        str,
        typer.Argument(help=f"What it offers: {', '.join(KINDS)}.", metavar="KIND", show_default=False),
    ],
    name: Annotated[
        str, typer.Argument(help="What users will ask for: small letters, digits, '_', '.', '-'.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make.", show_default="named for the kind and the name"),
    ] = None,
) -> None:
    """Write the project of a new plugin: code that works, tests of the contract, a README. Yours to change."""
    with told():
        from dit360_core.cli.scaffolding import plugin_project, write_project
        from dit360_core.plugins.registry import default_registry
        from dit360_core.system.atomic import check_new_folder

        project = plugin_project(kind, name, default_registry())
        target = Path(project.distribution) if output is None else output
        check_new_folder(target)
        write_project(project, target)
        typer.echo(f"Made {target}, a plugin that works as it is. Install and test it:")
        typer.echo(f'  python -m pip install -e "{target}[test]"')
        typer.echo(f'  python -m pytest "{target}"')
        typer.echo(f"Then make it yours: {target / 'README.md'} says where.")
