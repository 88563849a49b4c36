"""What a server saves, and whether its memory stays: the first picture, the tenth, and two hundred.

    python bench/serving.py                  # five minutes on two cores
    python bench/serving.py --pictures 20

The embedded model, 512×256, four steps. Beside the command that loads the model stands the one that asks a server.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from command_line import python
from served import Served, serving


def seconds_of(folder: Path, state: Path, *more: str) -> float:
    """Of one ``dit360 generate`` in a process of its own."""
    began = time.perf_counter()
    code = (
        "import sys; from dit360_core.cli import main;"
        f"sys.argv = ['dit360', 'generate', 'a calm sea', '--steps', '4', '-o', 'x.jpg', '--force', *{list(more)!r}];"
        "main()"
    )
    done = python(code, cwd=folder, DIT360_STATE_DIR=str(state), fresh=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def resident(server: Served) -> float:
    """MiB of the server's process."""
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


def main(pictures: Annotated[int, typer.Option(help="That are asked of one server.")] = 200) -> None:
    """Print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--idle", "0") as server:
        alone = [seconds_of(Path(folder), server.state, "--server", "never") for _ in range(3)]
        asked = [seconds_of(Path(folder), server.state) for _ in range(10)]
        memory, times = [], []
        for number in range(pictures):
            job = server.over(server.submit(f"a calm sea {number}", options={"width": 512, "steps": 4, "seed": number}))
            assert job["status"] == "done", job
            times.append(job["seconds"])
            memory.append(resident(server))
    tenth = max(1, pictures // 10)
    print("| | |\n|---|---|")
    print(f"| `generate`, which loads the model | {statistics.median(alone):.1f} s |")
    print(f"| `generate`, the first that asks the server | {asked[0]:.1f} s |")
    print(f"| the tenth | {asked[-1]:.1f} s |")
    print(f"| of that in the server | {statistics.median(times):.1f} s |")
    print(
        f"| memory of the server after {tenth}, {pictures // 2} and {pictures} pictures | "
        f"{memory[tenth - 1]:.0f}, {memory[pictures // 2 - 1]:.0f}, {memory[-1]:.0f} MiB |"
    )


if __name__ == "__main__":
    typer.run(main)
