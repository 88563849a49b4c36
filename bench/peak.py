"""Measurements in processes of their own, and the most memory that one held.

On a CPU that is the resident memory (Linux), on CUDA the allocator's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def reset_peak(device: torch.device) -> None:
    """Lets the peak start anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes held now, and the most since the reset."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


def in_a_process(script: str, asked: dict[str, Any], patience: float | None = None) -> dict[str, Any]:
    """What ``script --child ASKED`` prints as JSON in its last line, or ``failed`` and why. patience: seconds."""
    command = [sys.executable, script, "--child", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)
    except subprocess.TimeoutExpired:
        return {"failed": f"takes more than {patience} s"}
    if done.returncode:
        failed = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"failed": "out of memory" if done.returncode == -9 or "memory" in failed else failed}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
