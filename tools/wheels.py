"""Builds the wheels and source distributions of all distributions into an empty dist/: ``make wheels``.

Each wheel is built from its source distribution, and must be, byte for byte, the wheel of the sources themselves, so
that nothing is in one and not in the other. SOURCE_DATE_EPOCH (the last commit's, if git tells) makes a second run give
the same files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = sorted(path.parent for path in ROOT.glob("dit360-*/pyproject.toml"))
EARLIEST = "315532800"  # the first second that a zip file can hold


def moment() -> str:
    """The seconds since 1970 that files in archives are dated with."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return told
    try:
        asked = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() or EARLIEST
    except (OSError, subprocess.CalledProcessError):  # no git, or an archive of the sources
        return EARLIEST


def build(source: Path, out: Path, environment: dict[str, str], *kinds: str) -> None:
    # Not isolated: hatchling is the one that constraints.txt names, and nothing is fetched.
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{source.name} cannot be built:\n{done.stdout}{done.stderr}")


def main() -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": moment()}
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)  # wheels of before would be found by pip --find-links
    with tempfile.TemporaryDirectory() as folder:
        for source in DISTRIBUTIONS:
            build(source, dist, environment)  # the source distribution, and from it the wheel
            build(source, Path(folder), environment, "--wheel")
        for direct in sorted(Path(folder).glob("*.whl")):
            if direct.read_bytes() != (dist / direct.name).read_bytes():
                sys.exit(f"{direct.name} is another one when built from its source distribution")
            print(f"{dist.name}/{direct.name}  {direct.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
