"""The tests that need a GPU, as a part of ``bench/full_size.py``: a row for each, of the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_gpu(asked: dict[str, Any], work: Any, folder: str = "tests/gpu") -> None:
    """All that were not passed before; stopped a little before the part's time is over: what is done is told."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "junit.xml"
        known = [argument for what in asked["done"] for argument in ("--deselect", what)]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            folder,
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
            *known,
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            # An interrupted pytest still writes what it has.
            process.wait(max(1.0, asked["until"] - time.time() - 15))
        except subprocess.TimeoutExpired:
            process.send_signal(2)
            process.wait(10)
        if not report.exists():
            raise RuntimeError(f"pytest ended with the code {process.returncode} and no report")
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name = f"{folder}/{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}"
            work.tell(name, row_of(case))


def row_of(case: ElementTree.Element) -> dict[str, Any]:
    """What became of one test."""
    for found in case:
        said = found.get("message") or ""
        if found.tag in ("failure", "error"):
            return {"failed": said[:300], "traceback": (found.text or "")[-1500:]}
        if found.tag == "skipped":
            return {"skipped": said[:300]}
    return {"seconds": float(case.get("time") or 0)}
