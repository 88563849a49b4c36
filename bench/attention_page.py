"""docs/attention-matrix.md, from the figures that bench/attention.py has written for each device."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = """# Attention: which backend, how exact, how fast, how much memory

Written by `make bench-attention`, which measures every installed backend on the machine at hand; edit
`bench/attention_page.py`, not this page. **Error** is the largest error against float32 in units of the largest output,
at the real number of heads, channels and keys; a backend may have twice PyTorch's own in the same dtype, or it is not
used. **Speed** is PyTorch's time over its own. **MiB** is what a call holds at most beyond its inputs, its output
included. `+ bias` is a bias on the keys (`--circular-mode bias`), `/ 512` are slices of 512 queries
(`--attention-slice-size 512`).
"""


def write_page(docs: Path) -> None:
    """Writes the page from ``attention-matrix-*.json`` in the folder of docs."""
    files = sorted(docs.glob("attention-matrix-*.json"))
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    parts = [HEAD, *(_section(report) for report in reports)]
    if not any(report["device"] == "cuda" for report in reports):
        parts.append("## On a GPU\n\nNot measured yet: [gpu-queue.md](gpu-queue.md).\n")
    (docs / "attention-matrix.md").write_text("\n".join(parts), encoding="utf-8")


def _section(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    threads = f", {report['threads']} threads" if report["device"] == "cpu" else ""
    lines = [f"## {report['device_name']}\n", f"{report['date']}{threads}; {versions}.\n"]
    rows = [row for row in report["rows"] if row["part"] == "matrix"]
    shapes = dict.fromkeys((row["heads"], row["head_dim"], row["length"]) for row in rows)
    for heads, head_dim, length in shapes:
        lines.append(f"### {heads} heads of {head_dim}, {length} tokens\n")
        lines += _matrix([r for r in rows if (r["heads"], r["head_dim"], r["length"]) == (heads, head_dim, length)])
    sliced = [row["unlike_whole"] for row in rows if row["dtype"] == "fp32" and row.get("unlike_whole") is not None]
    if sliced:
        lines.append(
            f"In fp32, slices differ from the whole by {max(sliced):.1e} at most, over all {len(sliced)} cells.\n"
        )
    lines += _refused(rows)
    lines += _growth([row for row in report["rows"] if row["part"] == "growth"])
    cost = report["dispatch"]
    lines.append("### What our way to a kernel costs\n")
    lines.append(
        f"{cost['ours'] - cost['direct']:.1f} µs a call: {cost['ours']:.1f} µs through dit360, {cost['direct']:.1f} µs "
        "by calling PyTorch directly, on 16 tokens on the CPU (`python bench/attention.py --dispatch`; medians of 41 "
        "rounds in turn).\n"
    )
    return "\n".join(lines)


def _matrix(rows: list[dict[str, Any]]) -> Iterable[str]:
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    yield f"| backend | {' | '.join(f'{d}: error' + ' | speed | MiB' for d in dtypes)} |"
    yield "|---" * (1 + 3 * len(dtypes)) + "|"
    keys = dict.fromkeys((row["backend"], row["key_bias"], row["slice"]) for row in rows)
    for backend, key_bias, rows_a_slice in keys:
        cells = [_cell(rows, dtype, backend, key_bias, rows_a_slice) for dtype in dtypes]
        if any("peak" in cell or "failed" in cell for cell in cells):
            yield f"| {_name(backend, key_bias, rows_a_slice)} | {' | '.join(map(_figures, cells))} |"
    yield ""


def _cell(rows: list[dict[str, Any]], dtype: str, backend: str, key_bias: bool, slice_: int) -> dict[str, Any]:
    def one(name: str, bias: bool, rows_a_slice: int) -> dict[str, Any]:
        wanted = (dtype, name, bias, rows_a_slice)
        return next(r for r in rows if (r["dtype"], r["backend"], r["key_bias"], r["slice"]) == wanted)

    cell, sdpa = one(backend, key_bias, slice_), one("dit360-core:sdpa", False, 0)
    return {**cell, "of_sdpa": sdpa["seconds"] / cell["seconds"] if "seconds" in cell and "seconds" in sdpa else None}


def _figures(cell: dict[str, Any]) -> str:
    if "failed" in cell:
        return f"{cell['failed']} | | "
    if "peak" not in cell:
        return "– | – | –"
    speed = "" if cell["of_sdpa"] is None else f"{cell['of_sdpa']:.2f}"
    return f"{cell['error']:.1e} | {speed} | {cell['peak'] / 2**20:.0f}"


def _name(backend: str, key_bias: bool, rows: int) -> str:
    return f"`{backend.partition(':')[2]}`{' + bias' if key_bias else ''}{f' / {rows}' if rows else ''}"


def _refused(rows: list[dict[str, Any]]) -> Iterable[str]:
    """Each reason once, with the backends and dtypes that have it."""
    told: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for reason in row.get("reasons", ()):
            dtypes = told.setdefault(reason, {}).setdefault(row["backend"].partition(":")[2], [])
            if row["dtype"] not in dtypes:
                dtypes.append(row["dtype"])
    if not told:
        return
    yield "### What cannot run here, and why\n"
    all_dtypes = {row["dtype"] for row in rows}
    for reason, backends in told.items():
        names = (f"`{n}`" + ("" if set(d) == all_dtypes else f" ({', '.join(d)})") for n, d in backends.items())
        yield f"* {', '.join(names)}: {reason}"
    yield ""


def _growth(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield "### Memory and time against the length\n"
    yield "24 heads of 128, fp32. Scores are what eager attention stores: 4 bytes × 24 × tokens².\n"
    yield "| tokens | scores MiB | backend | MiB | of eager's | of the scores | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        scores = 4 * row["heads"] * row["length"] ** 2
        eager = next(
            r for r in rows if r["length"] == row["length"] and r["backend"].endswith(":eager") and not r["slice"]
        )
        start = f"| {row['length']} | {scores / 2**20:.0f} | {_name(row['backend'], False, row['slice'])} "
        if "peak" not in row:
            yield f"{start}| {row.get('failed', 'cannot run')} | | | |"
            continue
        of_eager = f"{row['peak'] / eager['peak']:.1%}" if "peak" in eager else ""
        yield (f"{start}| {row['peak'] / 2**20:.0f} | {of_eager} | {row['peak'] / scores:.1%} | {row['seconds']:.2f} |")
    yield ""
