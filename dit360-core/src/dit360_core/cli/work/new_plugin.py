"""Writes the project of a new plugin, and says what to do with it."""

from __future__ import annotations

from pathlib import Path

import typer

from dit360_core.cli.scaffolding import plugin_project, write_project
from dit360_core.plugins.registry import default_registry
from dit360_core.system.atomic import check_new_folder


def run(kind: str, name: str, output: Path | None) -> None:
    """Makes a folder.

    output: where; None: in the current one, named for the kind and the name.
    """
    project = plugin_project(kind, name, default_registry())
    target = Path(project.distribution) if output is None else output
    check_new_folder(target)
    write_project(project, target)
    typer.echo(f"Made {target}, a plugin that works as it is. Install and test it:")
    typer.echo(f'  python -m pip install -e "{target}[test]"')
    typer.echo(f'  python -m pytest "{target}"')
    typer.echo(f"Then make it yours: {target / 'README.md'} says where.")
