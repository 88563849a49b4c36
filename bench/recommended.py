"""What is recommended, measured: time and memory of a FLUX-shaped model, and the embedded model's picture.

    python bench/recommended.py        # writes the table of docs/choosing.md; five minutes on two cores

Memory and time are of a model of FLUX's structure whose weights are random (``middle`` of scaled.py); how near a
picture is to the first's can only be seen with one that was trained, so that is the embedded model's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dit360_core.system.memory import gib
from scaled import make_model

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- recommended: written by make recommended -->", "<!-- end of recommended -->"
COMBINATIONS = {
    "quality": {},
    "speed": {"scheduler_type": "unipc", "steps": 12, "precision": "bf16"},
    "low memory, same picture": {"evict": "all", "tiling_level": "recomputed"},
    "lowest memory": {"evict": "all", "tiling_level": "recomputed", "quantization_mode": "int4"},
}
"""What somebody wants → options. The first is what the others are compared with."""
PICTURE = ["--width", "512", "--steps", "28", "--precision", "fp32"]


def main() -> None:
    """Measure, and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        large = measured(make_model(Path(folder) / "middle", "middle"), Path(folder) / "middle.json", rounds=3)
        small = measured("tiny", Path(folder) / "tiny.json", rounds=1)
    page = ROOT / "docs/choosing.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    table = "\n".join(rows(large, small))
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(table)


def measured(model: str | Path, report: Path, *, rounds: int) -> Any:
    """What ``dit360 bench`` reports of all combinations."""
    vary = [
        word
        for options in list(COMBINATIONS.values())[1:]
        for word in ("--vary", "+".join(f"{name}={value}" for name, value in options.items()))
    ]
    command = [Path(sys.executable).parent / "dit360", "bench", "--model", str(model), *PICTURE, *vary]
    subprocess.run([*command, "--rounds", str(rounds), "--output", str(report)], check=True)
    return json.loads(report.read_text(encoding="utf-8"))


def rows(large: Any, small: Any) -> Iterable[str]:
    """The table, and a line about where it was measured."""
    yield "| for | options | whole picture | peak memory | picture |"
    yield "|---|---|---|---|---|"
    for (goal, options), of_large, of_small in zip(
        COMBINATIONS.items(), large["configurations"], small["configurations"], strict=True
    ):
        flags = " ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in options.items())
        time = of_large["ratios"]["whole"]["median"] if options else 1.0
        picture = of_small["picture"] if options else None
        told = "" if picture is None else "the same" if picture["same"] else f"{picture['psnr']:.0f} dB"
        yield (
            f"| {goal} | {flags or 'the defaults, fp32'} | {time:.2f} | "
            f"{gib(of_large['memory']['resident']['peak'])} | {told} |"
        )
    machine = large["environment"]["machine"]
    yield (
        f"\n<sub>{large['date'][:10]}, {machine['device_name']}, {large['environment']['threads']} CPU threads, torch "
        f"{machine['versions']['torch']}; FLUX's structure, random weights, 512×256, 28 steps; the first's time is "
        "1; PSNR of the embedded model's picture to its first.</sub>"
    )


if __name__ == "__main__":
    main()
