"""Wheels of this project's distributions, built in one process, since each import of the builder costs a second."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

BUILD = """
import os, sys
from hatchling.build import build_wheel
out, *sources = sys.argv[1:]
for source in sources:
    os.chdir(source)
    build_wheel(out)
"""


def build_wheels(out, names):
    """Into a folder."""
    command = [sys.executable, "-c", BUILD, out, *(ROOT / name for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
