"""``dit360 view FILE`` and ``dit360 inspect FILE``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from dit360_core.cli.output import harmless, told


def view(
    file: Annotated[Path, typer.Argument(help="A panorama: JPEG, WebP or PNG.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the viewer (HTML) here instead of opening it.")
    ] = None,
    open_viewer: Annotated[bool, typer.Option("--open", help="Open the viewer even if --output is given.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the HTML file if it exists.")] = False,
) -> None:
    """Look around in a panorama, in the browser and without a network."""
    with told() as console:
        from dit360_core.panorama import Panorama

        panorama = Panorama.open(file)
        written = panorama.view(output, open_browser=open_viewer or output is None, force=force)
        console.print(f"Viewer: {written}", markup=False, soft_wrap=True)


def inspect(
    file: Annotated[Path, typer.Argument(help="A panorama: JPEG, WebP or PNG.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell what made a panorama, its size, and how well it closes: seam ratio and z-score, pole constancy."""
    with told():
        from dit360_core.panorama import Panorama

        report = _measured(Panorama.open(file))
        if as_json:
            typer.echo(harmless(json.dumps(report, indent=2, ensure_ascii=False)))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in _rows(report):
            table.add_row(harmless(name), harmless(value))
        Console(highlight=False, markup=False).print(table)


def _measured(panorama: Any) -> dict[str, Any]:
    seam, poles = panorama.seam, panorama.poles
    return {
        "width": panorama.width,
        "height": panorama.height,
        "seam_ratio": _finite(seam.ratio),
        "seam_z_score": _finite(seam.z_score),
        "discontinuity_score": seam.discontinuity,
        "pole_std_top": poles.top,
        "pole_std_bottom": poles.bottom,
        "settings": dict(panorama.settings),
    }


def _finite(value: float) -> float | None:
    """None for a picture whose interior columns are all equal, where the measure has no value; JSON has no infinity."""
    return value if math.isfinite(value) else None


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    ratio, z_score = report["seam_ratio"], report["seam_z_score"]
    judged = "no value: the columns are all equal" if ratio is None else f"{ratio:.2f} ({_judged(ratio, z_score)})"
    rows = [
        ("size", f"{report['width']}×{report['height']}"),
        ("seam ratio", judged),
        ("seam z-score", "no value" if z_score is None else f"{z_score:+.2f} among interior columns"),
        ("discontinuity", f"{report['discontinuity_score']:.3f}"),
        (
            "poles",
            f"std {report['pole_std_top']:.1f} at the zenith, {report['pole_std_bottom']:.1f} at the nadir, of 255",
        ),
    ]
    settings = report["settings"]
    if not settings:
        return [*rows, ("made by", "unknown: the file holds no settings of dit360")]
    rows += [(name, str(settings[name])) for name in ("prompt", "negative_prompt") if settings.get(name)]
    for section in ("requested", "used", "versions"):
        for name, value in (settings.get(section) or {}).items():
            rows.append((f"{section} {name}", _short(value)))
    return rows


def _judged(ratio: float, z_score: float | None) -> str:
    """In words. The ratio alone condemns a smooth picture whose one tower happens to stand on the meridian."""
    if 0.8 <= ratio <= 1.25:
        return "like any other column"
    if z_score is not None and abs(z_score) <= 2:
        return "within the spread of other columns"
    return (
        "smoother than other columns" if ratio < 0.8 else "more than other columns: a seam, or an edge of what is shown"
    )


def _short(value: Any) -> str:
    if isinstance(value, dict) and "used" in value:
        told = f"{value['used']} ({value.get('distribution')} {value.get('version')})"
        asked = value.get("requested")
        return told if asked in (None, "auto", value["used"]) else f"{told}, asked for {asked}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
