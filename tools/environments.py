"""Fresh virtual environments in a temporary folder, with wheels of dist/ in them and no compiler within reach."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


class Failed(Exception):
    """A check that was not met; the text is for people."""


def package_of(wheel: Path) -> str:
    return wheel.name.split("-")[0]


def wheels() -> dict[str, Path]:
    """Distribution → its wheel in dist/."""
    found = {package_of(path).replace("_", "-"): path for path in sorted(DIST.glob("dit360_*.whl"))}
    if len(found) != len(list(DIST.glob("*.whl"))) or not found:
        raise Failed("dist/ does not hold one wheel of each distribution; 'make wheels' builds them")
    return found


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def metadata_of(wheel: Path, field: str) -> list[str]:
    """All values of a field in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as inside:
        (about,) = (name for name in inside.namelist() if name.endswith(".dist-info/METADATA"))
        head = inside.read(about).decode().split("\n\n")[0].splitlines()
    return [line.partition(": ")[2] for line in head if line.startswith(f"{field}: ")]


class Environment:
    """One virtual environment in ``folder``, which must not be there yet, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "environment"
        self.work = folder / "work"
        self.home = folder / "home"
        self.work.mkdir(parents=True)
        self.home.mkdir()
        # Links, as "python -m venv" makes them where links can be made.
        venv.create(self.folder, with_pip=True, symlinks=os.name != "nt")
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        self.seconds = 0.0

    def surroundings(self, **more: str) -> dict[str, str]:
        """This process's variables without what would lead to sources, other packages, a compiler or CUDA."""
        ours = ("DIT360_", "PYTHON", "CUDA", "COMFYUI", "VIRTUAL_ENV", "HF_", "LD_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        nothing = {"PATH": str(self.bin), "CC": "no-compiler", "CXX": "no-compiler", "PYTHONNOUSERSITE": "1"}
        fresh = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.home), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return {**kept, **nothing, **fresh, **more}

    def run(self, *command: str | Path, timeout: float = 900, codes: Iterable[int] = (0,), **more: str) -> str:
        """Runs a command in the empty folder and returns what it prints. Raises Failed with the end of what it says."""
        done = subprocess.run(
            [str(each) for each in command],
            cwd=self.work,
            env=self.surroundings(**more),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        if done.returncode not in codes:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            shown = " ".join(str(each) for each in command[:3])
            raise Failed(f"{Path(shown).name} ended with {done.returncode}:\n{said}")
        return done.stdout

    def install(self, *requirements: str, constraints: Iterable[Path] = (), sources: bool = False) -> None:
        """By pip, with dist/ beside the index; nothing but wheels, so that nothing is compiled, unless ``sources``."""
        given = [argument for path in constraints for argument in ("-c", str(path))]
        wheels_only = [] if sources else ["--only-binary", ":all:"]
        # Python compiles what it imports by itself; compiling all of torch would take longer than unpacking it.
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--find-links", str(DIST)]
        started = time.monotonic()
        self.run(self.python, "-m", "pip", "install", *options, *wheels_only, *given, *requirements, timeout=3600)
        self.seconds += time.monotonic() - started

    def installed(self) -> dict[str, str]:
        """Distribution → version, of all that is installed but pip and what Python's venv may bring with it."""
        lines = self.run(
            self.python, "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze"
        ).splitlines()
        pairs = (line.partition("==") for line in lines)
        found = {name.lower().replace("_", "-"): version for name, _, version in pairs}
        return {name: version for name, version in found.items() if name not in ("", "pip", "setuptools")}

    def check_files(self, name: str, wheel: Path) -> None:
        """Raises Failed unless what is installed under this name is, file by file, the wheel of dist/."""
        package = package_of(wheel)
        code = f"import {package}, sysconfig; print({package}.__file__); print(sysconfig.get_paths()['purelib'])"
        file, site = self.run(self.python, "-c", code).splitlines()
        if not Path(file).is_relative_to(site):
            raise Failed(f"{package} is imported from {file}")
        about = f"{package}-{version_of(wheel)}.dist-info/RECORD"
        with zipfile.ZipFile(wheel) as inside:
            built = {tuple(row[:2]) for row in csv.reader(inside.read(about).decode().splitlines()) if row[1]}
        here = (Path(site) / about).read_text(encoding="utf-8").splitlines()
        if not built <= {tuple(row[:2]) for row in csv.reader(here)}:
            raise Failed(f"{name} is not the one in dist/")

    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())


def merged(target: Path, *files: Path) -> Path:
    """One file of constraints from several; where two name a distribution, the first counts."""
    pins: dict[str, str] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            pin = line.partition("#")[0].strip()
            if pin:
                pins.setdefault(re.split(r"[=<>!~ ]", pin)[0].lower().replace("_", "-"), pin)
    target.write_text("\n".join(pins.values()) + "\n", encoding="utf-8")
    return target


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows with equal keys as a table of Markdown."""
    rows = list(rows)
    texts = [[str(value) for value in row.values()] for row in rows]
    names = [list(row) for row in rows][:1]
    widths = [max(map(len, column)) for column in zip(*names, *texts, strict=True)]
    lines = [*names, ["-" * width for width in widths], *texts]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def fail(failures: list[str]) -> None:
    """Ends the program with 1 if there is a failure."""
    for failure in failures:
        print(f"\nFAILED {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)
