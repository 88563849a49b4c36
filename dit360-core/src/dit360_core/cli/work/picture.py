"""Shows a picture in the browser, and tells what there is to tell of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
from PIL.Image import Image
from rich.console import Console

from dit360_core.cli.output import harmless
from dit360_core.cli.work.reports import print_report
from dit360_core.errors import InputError
from dit360_core.panorama import viewer
from dit360_core.panorama.formats import FORMATS
from dit360_core.panorama.picture import Panorama, open_file


def show(
    console: Console,
    file: Path,
    output: Path | None,
    open_viewer: bool,
    force: bool,
    *,
    yaw: float | None,
    pitch: float | None,
    fov: float | None,
) -> None:
    """Writes the page to look around in, and says what of the picture it does not show by itself."""
    viewer.check_first(yaw, pitch, fov)  # before a large picture is read
    if output is not None and output.suffix.lower() in FORMATS:
        raise InputError(f"The viewer is a page, and {output} is the name of a picture; end its name in .html.")
    panorama, as_it_is = open_file(file)
    data = file.read_bytes() if as_it_is and panorama.width <= viewer.WHOLE else None
    written = panorama.view(
        output, open_browser=open_viewer or output is None, yaw=yaw, pitch=pitch, fov=fov, data=data, force=force
    )
    console.print(f"Viewer: {written}", markup=False, soft_wrap=True)
    widest = viewer.WIDEST
    if panorama.width > widest:
        console.print(f"It shows {panorama.width}×{panorama.height} pixels as {widest}×{widest // 2}.")
    for name, value in _placed(_measured(panorama, pixels=False)):
        console.print(harmless(f"{name}: {value}"), markup=False, soft_wrap=True)


def tell(file: Path, as_json: bool) -> None:
    """Prints a report on a picture: a table, or JSON."""
    report = _measured(Panorama.open(file))
    print_report(report, _rows(report), as_json=as_json)


def _measured(panorama: Panorama, *, pixels: bool = True) -> dict[str, Any]:
    """What there is to tell of a picture.

    pixels: measure them as well.
    """
    report: dict[str, Any] = {"width": panorama.width, "height": panorama.height}
    if pixels:
        report = _judged(panorama) | report
    pose = attrs.asdict(panorama.pose)
    return {
        **report,
        "area": attrs.asdict(panorama.area) if panorama.area else None,
        "pose": {name: pose[name] for name in ("heading", "pitch", "roll")},
        "first_view": {name.removeprefix("view_"): pose[name] for name in pose if name.startswith("view_")},
        "gpano": pose["others"],
        "colour_profile": panorama.profile or None,
        "precision": panorama.precision or None,
        "transparent_share": _clear(panorama.hole),
        "settings": dict(panorama.settings),
    }


def _clear(hole: Image | None) -> float | None:
    """The share of a picture that is transparent; None: all of it is opaque.

    hole: white where it is transparent.
    """
    if hole is None:
        return None
    counts = hole.histogram()
    return sum(level * count for level, count in enumerate(counts)) / (255 * sum(counts))


def _judged(panorama: Panorama) -> dict[str, Any]:
    """The measures of the pixels; None for those of what is not shown, and those that have no value."""
    area, poles = panorama.area, panorama.poles
    found = {
        "seam_ratio": None,
        "seam_z_score": None,
        "seam_compared_with": None,
        "discontinuity_score": None,
        "pole_std_top": None if area and area.top else poles.top,
        "pole_std_bottom": None if area and area.top + area.height < panorama.height else poles.bottom,
    }
    if not panorama.closes:
        return {"verdict": "it does not go all around, and has no meridian to close at", **found}
    seam = panorama.seam
    ratio, z_score = _finite(seam.ratio), _finite(seam.z_score)
    coded = panorama.coded
    like = f"steps between columns at edges of {coded.name}'s blocks" if coded else "steps between columns"
    return {
        "verdict": _verdict(ratio, z_score),
        **found,
        "seam_ratio": ratio,
        "seam_z_score": z_score,
        "seam_compared_with": f"{seam.compared} {like}",
        "discontinuity_score": _finite(seam.discontinuity),
    }


def _finite(value: float) -> float | None:
    """None for a picture whose interior columns are all equal, where the measure has no value; JSON has no infinity."""
    return value if math.isfinite(value) else None


def _verdict(ratio: float | None, z_score: float | None) -> str:
    """In words. The ratio alone condemns a smooth picture whose one tower happens to stand on the meridian."""
    if ratio is None:
        return "no verdict: most columns equal their neighbours, but not across the meridian"
    if 0.8 <= ratio <= 1.25:
        return f"closes: the step at the meridian is like any other ({ratio:.2f})"
    if z_score is not None and abs(z_score) <= 2:
        return f"closes: the step at the meridian is within the spread of the others ({ratio:.2f})"
    if ratio < 0.8:
        return f"blurred: the step at the meridian is smaller than the others ({ratio:.2f})"
    return f"a seam, or an edge of what is shown: the step at the meridian is larger than the others ({ratio:.2f})"


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("meridian", report["verdict"]), ("size", f"{report['width']}×{report['height']}"), *_placed(report)]
    ratio, z_score, discontinuity = (report[n] for n in ("seam_ratio", "seam_z_score", "discontinuity_score"))
    if report["seam_compared_with"]:
        usual = f"beside {report['seam_compared_with']}"
        rows += [
            ("seam ratio", "no value" if ratio is None else f"{ratio:.2f} {usual}; good is 0.8 … 1.25"),
            ("seam z-score", "no value" if z_score is None else f"{z_score:+.2f} among them; good is −2 … 2"),
            ("discontinuity", "no value" if discontinuity is None else f"{discontinuity:.3f}"),
        ]
    poles = [
        f"{report[name]:.1f} at the {pole}"
        for name, pole in (("pole_std_top", "zenith"), ("pole_std_bottom", "nadir"))
        if report[name] is not None
    ]
    rows.append(("poles", f"std {', '.join(poles)}, of 255" if poles else "not shown"))
    settings = report["settings"]
    if not settings:
        return [*rows, ("made by", "unknown: the file holds no settings of dit360")]
    rows += [(name, str(settings[name])) for name in ("prompt", "negative_prompt") if settings.get(name)]
    for section in ("requested", "used", "versions", "imported", "exported", "enlarged"):
        content = settings.get(section) or {}
        if not isinstance(content, dict):
            rows.append((section, _short(content)))
            continue
        rows += [(f"{section} {name}", _short(value)) for name, value in content.items()]
    return rows


def _placed(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a picture lies on the sphere and in the world, and its colours: what is not told is left out."""
    rows = []
    if area := report["area"]:
        across, down = 360 * area["width"] / report["width"], 180 * area["height"] / report["height"]
        rows.append(
            (
                "part",
                f"{across:.4g}°×{down:.4g}°: {area['width']}×{area['height']} pixels at {area['left']}, {area['top']}; "
                "the rest is black",
            )
        )
    names = {"pose": "pose", "first_view": "first view"}
    for section, name in names.items():
        angles = {what: angle for what, angle in report[section].items() if angle is not None}
        # A made picture's heading of 0 is a word for nothing.
        if any(angles.values()) or (section == "first_view" and angles):
            rows.append((name, ", ".join(f"{what} {angle:g}°" for what, angle in angles.items())))
    rows += [(name, _short(value)) for name, value in report["gpano"].items()]
    if report["colour_profile"]:
        rows.append(("colours", f"{report['colour_profile']}, converted to sRGB"))
    if report["precision"]:
        rows.append(("precision", report["precision"]))
    if report["transparent_share"] is not None:
        share = f"{100 * report['transparent_share']:.2g} % of the picture, which is shown as if it were opaque"
        rows.append(("transparency", share))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, dict) and "used" in value:
        told = f"{value['used']} ({value.get('distribution')} {value.get('version')})"
        asked = value.get("requested")
        return told if asked in (None, "auto", value["used"]) else f"{told}, asked for {asked}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
