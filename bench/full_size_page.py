"""The page of what ``bench/full_size.py`` measured, written anew after each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dit360_core.system.memory import gib

Row = dict[str, Any]


def state_of(part: str, runs: Iterable[dict[str, Any]]) -> str:
    """What became of a part in the last run that came to it; empty if none did."""
    states = [run["parts"][part]["state"] for run in runs if part in run.get("parts", {})]
    tried = [state for state in states if state != "no time"]
    if "done" in tried:
        return "done"
    return tried[-1] if tried else (states[-1] if states else "")


def page(runs: list[dict[str, Any]], parts: list[str]) -> str:
    """Markdown: each machine's rows, the last of each, and what is left. parts: all there are."""
    lines = ["# FLUX.1-dev's full architecture, measured", "", "Written by `bench/full_size.py`; weights are random."]
    machines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        machines.setdefault(machine(run), []).append(run)
    for name, alike in machines.items():
        lines += ["", f"## {name}", "", "| part | what | a step or call | ratio | peak | on the card | error | more |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        last = {(row["part"], row["what"]): row for run in alike for row in run["rows"]}
        order = {part: number for number, part in enumerate(parts)}
        rows = sorted(last.values(), key=lambda row: order.get(row["part"], len(order)))
        lines += [cells(row) for row in together(rows)]
        states = {part: state_of(part, alike) for part in parts}
        waiting = [f"{part} ({state or 'not begun'})" for part, state in states.items() if state != "done"]
        lines += ["", f"Left: {', '.join(waiting)}." if waiting else "Nothing is left."]
        for row in rows:
            if row.get("traceback"):
                lines += ["", f"{row['part']}, {row['what']}:", "", "```text", row["traceback"].strip(), "```"]
    return "\n".join(lines) + "\n"


def machine(run: dict[str, Any]) -> str:
    """What a run was measured on, and with what."""
    asked = run["asked"]
    size = f"{asked['width']}×{asked['width'] // 2}" + (", a narrow model" if asked["small"] else "")
    name = run.get("device_name") or asked["device"]
    return f"{name}, torch {run['versions'].get('torch')}, {size}, {run['date'][:10]}"


def together(rows: list[Row]) -> list[Row]:
    """What is skipped for one reason, as one row."""
    skipped: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "skipped" in row:
            skipped.setdefault((row["part"], row["skipped"]), []).append(row["what"])
    made: list[Row] = []
    for row in rows:
        if "skipped" not in row:
            made.append(row)
        elif whats := skipped.pop((row["part"], row["skipped"]), None):
            made.append({**row, "what": "; ".join(whats)})
    return made


SHOWN = {"seconds", "ratio", "quartiles", "peak", "reserved", "card", "error", "allowed", "part", "what", "traceback"}


def cells(row: Row) -> str:
    """One row of the table."""
    start = f"| {row['part']} | {row['what']} | "
    for word in ("failed", "skipped"):
        if word in row:
            return start + f"{word}: {plain(row[word])} | | | | | |"
    low, high = row.get("quartiles") or (None, None)
    ratio = f"{row['ratio']:.3f}" if isinstance(row.get("ratio"), float) else ""
    spread = f" ({low:.3f} … {high:.3f})" if low is not None else ""
    allowed = f" of {number(row['allowed'])}" if "allowed" in row else ""
    cell = [
        f"{number(row['seconds'])} s" if "seconds" in row else "",
        ratio + spread,
        gib(row["peak"]) if row.get("peak") else "",
        gib(row["card"]) if row.get("card") else "",
        f"{number(row['error'])}{allowed}" if "error" in row else "",
        ", ".join(f"{key} {shown(key, value)}" for key, value in row.items() if key not in SHOWN and value is not None),
    ]
    return start + " | ".join(cell) + " |"


def shown(key: str, value: Any) -> str:
    """A figure by its kind: bytes, or a number."""
    is_bytes = key.endswith(("peak", "bytes")) or key.startswith("predicted")
    return gib(value) if is_bytes and isinstance(value, int) else plain(number(value))


def number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """What does not break a table."""
    return " ".join(text.split()).replace("|", "\\|")[:300]
