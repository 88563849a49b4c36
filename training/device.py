"""Where to render and train."""

from __future__ import annotations

import torch
import typer


def pick(asked: str) -> str:
    """`auto` is the GPU if there is one; a GPU that was asked for by name must be there."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the device is {asked!r}, but must be auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here, or torch was built without CUDA; take cpu")
    return asked
