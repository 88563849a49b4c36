"""Which wheels of attention kernels install and work on this machine, each tried in a folder of its own.

    python bench/attention_wheels.py download WHEELS    # where there is a network: a folder for each, without torch
    python bench/attention_wheels.py try WHEELS         # on the GPU, without a network: install, then a trial of each

Nothing is installed into the environment itself. SageAttention has no backend in dit360; what it would have to show for
one, by the rule that all backends are held to, is measured all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

WANTED = {
    "xformers": ["xformers"],
    "fa3": ["fa3-fwd"],
    "fa4": [
        "flash-attn-4>=4.0.0b30",
        "nvidia-cutlass-dsl",
        "nvidia-cutlass-dsl-libs-base",
        "nvidia-cutlass-dsl-libs-cu12",
        "quack-kernels",
        "apache-tvm-ffi",
        "torch-c-dlpack-ext",
        "einops",
    ],
    "fa2": ["flash-attn"],
    "sage": ["sageattention"],
}

SAGE = """
import json
from dit360_core.planning.kernels import typical_need
from dit360_core.system.machine import Machine
from dit360_core.planning.probe import closeness, speed
from sageattention import sageattn
def attend(q, k, v, *, scale):
    return sageattn(q, k, v, tensor_layout="NHD", sm_scale=scale)
need = typical_need(Machine.detect())
found = closeness(attend, need)
seconds, of_sdpa = speed(attend, need)
print(json.dumps({"error": found.error, "allowed": found.allowed, "seconds": seconds, "of_sdpa": of_sdpa}))
"""

Wheels = Annotated[Path, typer.Argument(help="Folder with a folder of wheels for each library.")]
app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)


@app.command()
def download(wheels: Wheels) -> None:
    """Fetch the wheels for this Python and platform. A library that has none is told."""
    for name, requirements in WANTED.items():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "-d", str(wheels / name), *requirements], check=False)
        print(f"{name}: {'fetched' if done.returncode == 0 else 'there is no wheel'}")


@app.command("try")
def try_them(wheels: Wheels) -> None:
    """Install each into a folder and try what it brings."""
    table = Table("wheels", "what", "error", "allowed", "speed, sdpa = 1", "why not")
    for folder in sorted(path for path in wheels.iterdir() if path.is_dir()):
        with tempfile.TemporaryDirectory() as site:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site]
            files = sorted(map(str, folder.glob("*.whl")))
            done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
            if done.returncode or not files:
                table.add_row(folder.name, "", "", "", "", done.stderr.strip() or "no wheel")
                continue
            names = ", ".join(sorted(path.name.partition("-")[0] for path in folder.glob("*.whl")))
            for what, found in tried(folder.name, site):
                numbers = [found.get(key) for key in ("error", "allowed", "of_sdpa")]
                told = ["" if number is None else f"{number:.3g}" for number in numbers]
                table.add_row(names, what, *told, found.get("why", ""))
    Console().print(table)


def tried(name: str, site: str) -> list[tuple[str, dict[str, Any]]]:
    """What a folder of installed wheels can do, by backend."""
    environment = {**os.environ, "PYTHONPATH": site}
    script = (
        SAGE
        if name == "sage"
        else "import sys; sys.argv[1:] = ['backends', '--probe', '--json']\n"
        + ("from dit360_core.cli import main; main()")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return [(name, {"why": (done.stderr.strip().splitlines() or ["it failed"])[-1]})]
    report = json.loads(done.stdout)
    if name == "sage":
        return [(name, report)]
    wanted = {"xformers": "xformers", "fa2": "flash-2", "fa3": "flash-3", "fa4": "flash-4"}[name]
    offer = next(o for o in report["offers"] if o["name"] == wanted)
    return [(wanted, {**offer["probe"], "why": "; ".join(reason["sentence"] for reason in offer["reasons"])})]


if __name__ == "__main__":
    app()
