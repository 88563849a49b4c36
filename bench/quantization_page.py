"""Writes the measured tables into docs/quantization.md, from the figures of every device."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: written by make bench-quantization -->", "<!-- end of figures -->"


def write_figures(docs: Path) -> None:
    """Replaces what stands between the markers."""
    page = docs / "quantization.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(docs.glob("quantization-*.json"))]
    figures = "\n\n".join("\n".join(_section(report)) for report in reports)
    page.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")


def _section(report: dict[str, Any]) -> Iterable[str]:
    asked = report["asked"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    integers = " with VNNI" if report["vnni"] else ""
    double, single = asked["blocks"]
    yield (
        f"### On {asked['device']}: {report['machine']}{integers}, {report['threads']} threads, {versions}, "
        f"{report['date']}"
    )
    yield ""
    yield (
        f"A transformer of FLUX.1-dev's widths with {double} + {single} blocks and random weights, "
        f"{asked['precision']}, {asked['tokens']} image tokens, read from shards of 0.25 GiB. What is not quantized is "
        f"{_share_left(report)} of this "
        "one and 0.5 % of FLUX.1-dev. Loading without quantization only maps the files, and shows nothing on a CPU."
    )
    yield ""
    yield "| | layers, of full | whole | peak of loading | peak of a step | time of a step | error of the output |"
    yield "|---|---|---|---|---|---|---|"
    for row in report["rows"]:
        if "failed" in row:
            yield f"| {row['mode']} | {row['failed']} | | | | | |"
            continue
        layers = f"{row['layer_bytes'] / row['layer_bytes_before']:.1%}" if "layer_bytes" in row else "100 %"
        yield (
            f"| {row['mode']} | {layers} | {_gib(row['weights'])} | {_gib(row['loading_peak'])} | "
            f"{_gib(row['step_peak'])} | {row['time']:.2f} ({row['seconds']:.2f} s) | {row['error']:.2%} |"
        )
    yield ""
    yield "Error of single layers for sixteen random tokens with outliers (median of the layers of a kind):"
    yield ""
    kinds = next(row["errors"] for row in report["rows"] if "errors" in row)
    shown = [row for row in report["rows"] if "errors" in row]
    yield "| | " + " | ".join(row["mode"] for row in shown) + " |"
    yield "|---" * (len(shown) + 1) + "|"
    for kind in kinds:
        yield f"| {kind} | " + " | ".join(f"{row['errors'][kind]:.1%}" for row in shown) + " |"
    yield ""
    yield (
        f"Pictures of the embedded model, 512×256, 28 steps, {report['pictures'][0]['pictures']} prompts of one seed "
        "each, against those of none:"
    )
    yield ""
    yield (
        "| | weights of the layers | error of the first velocity | PSNR, median (worst) | adherence | seam ratio | "
        "seconds a picture |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in report["pictures"]:
        weights = f"{row['weights'] / 2**20:.1f} MiB" if row["weights"] else "as loaded"
        psnr = "" if row["psnr"] is None else f"{row['psnr']:.1f} dB ({row['psnr_worst']:.1f})"
        yield (
            f"| {row['mode']} | {weights} | {row['error']:.2%} | {psnr} | {row['adherence']:.0%} of {row['checks']} | "
            f"{row['seam']:.2f} | {row['seconds']:.1f} |"
        )
    yield ""
    yield "What that makes of FLUX.1-dev's weights (computed: its layers at the measured bits, the rest in bf16):"
    yield ""
    yield "| | transformer | T5 | transformer, of fp32 | both, of bf16 |"
    yield "|---|---|---|---|---|"
    whole = report["whole"]
    for row in report["rows"]:
        if "failed" in row:
            continue
        full = {"fp32": 32, "bf16": 16}[asked["precision"]]
        bits = full * row["layer_bytes"] / row["layer_bytes_before"] if "layer_bytes" in row else 16
        sizes = [part["quantized"] * bits / 8 + part["others"] * 2 for part in whole.values()]
        before = sum(2 * (part["quantized"] + part["others"]) for part in whole.values())
        wide = sum(4 * number for number in whole["transformer"].values())
        yield (
            f"| {row['mode']} | {_gib(sizes[0])} | {_gib(sizes[1])} | {sizes[0] / wide:.1%} | "
            f"{sum(sizes) / before:.1%} |"
        )


def _share_left(report: dict[str, Any]) -> str:
    row = next(row for row in report["rows"] if "layer_bytes_before" in row)
    return f"{1 - row['layer_bytes_before'] / row['full']:.0%}"


def _gib(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.2f} GiB"
