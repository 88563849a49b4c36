"""Every attention backend: how far it is from float32, how long it takes, how much memory it holds.

    python bench/attention.py --device cpu            # all of docs/attention-matrix.md, about twenty minutes
    python bench/attention.py --quick                 # short calls only
    python bench/attention.py --dispatch              # what our way to a kernel costs a call

Every cell is a process of its own, since an allocator that has been large stays so and a kernel may take the process
with it. Figures go to docs/attention-matrix-DEVICE.json, and the page is written anew from the files of all devices.
Memory is what a call holds at most beyond its inputs, its output included. Times are medians of three calls, or that of
one that takes seconds.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from attention_page import write_page
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.system.machine import Machine
from peak import in_a_process, memory, reset_peak
from rich.console import Console
from rich.progress import track

DOCS = Path(__file__).parents[1] / "docs"
DTYPES = ("fp32", "bf16", "fp16")
SLICE = {8832: 512, 544: 128}
GROWTH = (2048, 4096, 8192)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Only calls of 544 tokens, and no file.")] = False,
    dispatch: Annotated[bool, typer.Option("--dispatch", help="Only what our way to a kernel costs.")] = False,
) -> None:
    """Measure all cells and write the page."""
    console = Console()
    if dispatch:
        cost = dispatch_cost()
        console.print(f"A call takes {cost['ours']:.1f} µs through dit360 and {cost['direct']:.1f} µs directly.")
        return
    cells = [cell for cell in wanted(device) if not quick or cell["length"] == 544]
    rows = [{**cell, **measured(cell)} for cell in track(cells, console=console)]
    report = {**about(device), "rows": rows, "dispatch": dispatch_cost()}
    if quick:
        console.print_json(data=report)
        return
    (DOCS / f"attention-matrix-{device}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_page(DOCS)
    console.print(f"Written: {DOCS / 'attention-matrix.md'}")


def wanted(device: str) -> Iterable[dict[str, Any]]:
    """Every backend × dtype × shape × bias × slice, then what grows with the length."""
    from dit360_core.plugins.entries import by_priority
    from dit360_core.plugins.registry import default_registry

    backends = [entry.address for entry in sorted(default_registry().entries("attention"), key=by_priority)]
    for heads, head_dim, length in ((24, 128, 8832), (24, 64, 544), (24, 128, 544), (24, 256, 544)):
        for dtype in DTYPES:
            for backend in backends:
                for key_bias in (False, True):
                    for rows in (0, SLICE[length]):
                        yield {
                            "part": "matrix",
                            "device": device,
                            "backend": backend,
                            "dtype": dtype,
                            "heads": heads,
                            "head_dim": head_dim,
                            "length": length,
                            "key_bias": key_bias,
                            "slice": rows,
                        }
    for length in GROWTH:
        for backend, rows in (("dit360-core:eager", 0), ("dit360-core:eager", 512), ("dit360-core:sdpa", 0)):
            yield {
                "part": "growth",
                "device": device,
                "backend": backend,
                "dtype": "fp32",
                "heads": 24,
                "head_dim": 128,
                "length": length,
                "key_bias": False,
                "slice": rows,
            }


def about(device: str) -> dict[str, Any]:
    """The machine and the day."""
    machine = Machine.detect(device)
    libraries = ("torch", "xformers", "flash-attn", "flash-attn-4", "fa3-fwd", "kernels")
    return {
        "device": device,
        "device_name": cpu_name() if device == "cpu" else machine.device_name,
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: found for name in libraries if (found := machine.version(name))},
    }


def cpu_name() -> str:
    """The processor, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def judged(cell: dict[str, Any]) -> tuple[Any, AttentionNeed, list[str]]:
    """A cell's backend, what it asks of it, and why that cannot be had here."""
    from dit360_core.plugins.choosing import judge
    from dit360_core.plugins.registry import default_registry

    (entry,) = default_registry().find("attention", cell["backend"])
    shape = ("device", "dtype", "heads", "head_dim", "length", "key_bias")
    need = AttentionNeed(**{key: cell[key] for key in shape})
    return entry.offer, need, [str(reason) for reason in judge(entry, Machine.detect(cell["device"]), need)]


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell, in a process of its own."""
    if reasons := judged(cell)[2]:
        return {"reasons": reasons}
    return in_a_process(__file__, cell, patience=900)


def dispatch_cost(calls: int = 500, rounds: int = 41) -> dict[str, float]:
    """Microseconds of a call of PyTorch's attention on next to no data: through dit360's kernel, and directly."""
    import torch.nn.functional as F
    from dit360_core.planning.kernels import Kernels
    from dit360_core.plugins.registry import default_registry

    need = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=16)
    _, attend = Kernels(default_registry(), Machine.detect("cpu"), strict=True).choose("sdpa", need)
    q = torch.randn(1, 16, 2, 16)
    nothing: dict[str, Any] = {}

    def ours() -> None:
        attend(q, q, q, scale=0.25, **nothing)

    def direct() -> None:
        t = q.transpose(1, 2)
        F.scaled_dot_product_attention(t, q.transpose(1, 2), q.transpose(1, 2), scale=0.25).transpose(1, 2)

    took: dict[str, list[float]] = {"ours": [], "direct": []}
    for _ in range(rounds):
        for name, function in (("ours", ours), ("direct", direct)):
            started = time.perf_counter()
            for _ in range(calls):
                function()
            took[name].append((time.perf_counter() - started) / calls * 1e6)
    return {name: statistics.median(values) for name, values in took.items()}


# ------------------------------------------------------------------------------------------------- in the child


def child(cell: dict[str, Any]) -> dict[str, Any]:
    """One measurement."""
    from dit360_core.planning.probe import closeness, refusals, trial_call
    from dit360_core.plugins.slicing import sliced

    keep_the_machine_alive(cell["device"])
    offer, need, _ = judged(cell)
    try:
        attend = offer.load()
    except Exception as error:  # noqa: BLE001
        return {"reasons": [f"loading it raised {error}"]}
    if reasons := refusals(attend, Machine.detect(need.device), need):
        return {"reasons": [str(reason) for reason in reasons]}
    kernel = sliced(attend, cell["slice"]) if cell["slice"] else attend
    close = closeness(kernel, need)
    if close.reasons:
        return {"reasons": [str(reason) for reason in close.reasons]}

    unlike = None
    if cell["slice"]:
        # Two slices, the second a short one.
        part = trial_call(need, cell["slice"] + 48, need.length)
        unlike = float((part.to(kernel).double() - part.to(attend).double()).abs().max())
    call, device = trial_call(need, need.length, need.length), torch.device(need.device)
    short = trial_call(need, 64, 64)
    short.to(kernel)
    reset_peak(device)
    before = memory(device)[0]
    seconds = [timed(lambda: call.to(kernel), device)]
    peak = memory(device)[1] - before
    if seconds[0] < 2:
        seconds = [timed(lambda: call.to(kernel), device) for _ in range(3)]
    return {
        "error": close.error,
        "allowed": close.allowed,
        "seconds": statistics.median(seconds),
        "peak": peak,
        "unlike_whole": unlike,
    }


def timed(function: Any, device: torch.device) -> float:
    """Seconds."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def keep_the_machine_alive(device: str) -> None:
    """An allocation that does not fit fails by itself, before the kernel ends whichever process it likes."""
    if device == "cpu":
        import resource

        import psutil

        here = psutil.Process().memory_info().vms
        most = here + int(0.95 * psutil.virtual_memory().available)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
