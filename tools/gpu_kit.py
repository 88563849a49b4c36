"""What a machine with a GPU, PyTorch and no network needs beside this folder: packed here, installed there.

    python tools/gpu_kit.py pack       # where there is a network: wheels into gpu-kit/, with the versions of .venv
    python tools/gpu_kit.py install    # there, with the Python that has PyTorch: this project, in place

PyTorch with all that it brings must be there, and so must a few large libraries that come with it as a rule. What is
compiled is fetched for Linux on x86_64 and the Python there; bitsandbytes without its builds for other CUDAs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT = ROOT / "gpu-kit"
OURS = (
    "dit360-core", "dit360-attn-flash", "dit360-attn-xformers", "dit360-format-gguf", "dit360-model-flux2",
    "dit360-model-krea", "dit360-model-qwen", "dit360-quant-bnb", "dit360-sched-ddim",
)  # fmt: skip
BUILD = ("hatchling", "editables")
BITS = "bitsandbytes"
THERE = ("torch", "numpy", "scipy", "pillow", "tokenizers", "hf-xet")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28)] + ["manylinux2014_x86_64"]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def plain(name: str) -> str:
    """A distribution's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
    """What is installed here of distributions and all that they require, without extras. without: not followed."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [plain(name) for name in names]
    left_out = set(without)
    while waiting:
        name = waiting.pop()
        if name in found | left_out:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed in {sys.prefix}; run 'make install', and this with .venv/bin/python.")
        found.add(name)
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(plain(requirement.name))
    return found


def to_carry() -> dict[str, str]:
    """Distribution → version of what travels."""
    there = needed(THERE)
    return {name: distribution(name).version for name in sorted(needed([*OURS, *BUILD], there) - set(OURS))}


def pack(python: str, cuda: str) -> None:
    """Fetches the wheels. python: 3.12. cuda: 130 for 13.0; builds for other versions are left out of them."""
    shutil.rmtree(KIT, ignore_errors=True)
    KIT.mkdir()
    pins = [f"{name}=={version}" for name, version in to_carry().items()]
    system = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", python, "--dest", str(KIT)]
    if subprocess.run([*PIP, "download", *options, *system, *pins], check=False).returncode:
        sys.exit("pip could not fetch the wheels.")
    for wheel in KIT.glob(f"{BITS}-*.whl"):
        trim(wheel, cuda)
    size = sum(path.stat().st_size for path in KIT.iterdir())
    print(f"{KIT.name}/: {len(pins)} wheels, {size / 2**20:.1f} MiB")


def trim(wheel: Path, cuda: str) -> None:
    """Leaves out of a wheel the libraries that are for another version of CUDA."""
    other = re.compile(rf"_(cuda(?!{cuda}\b)\d+|rocm\d+|xpu)\w*\.(so|dll)$")
    lean = wheel.with_suffix(".lean")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(lean, "w", zipfile.ZIP_DEFLATED) as made:
        for item in whole.infolist():
            content = whole.read(item)
            if other.search(item.filename):
                continue
            if item.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not other.search(line.partition(",")[0])).encode()
            made.writestr(item, content)
    lean.replace(wheel)


def install() -> None:
    """Installs this project in place, into the Python that runs this."""
    if subprocess.run([sys.executable, "-c", "import torch"], check=False, capture_output=True).returncode:
        sys.exit(f"{sys.executable} has no PyTorch; run this with the Python that has it.")
    if not KIT.is_dir():
        sys.exit("There is no gpu-kit/ here; make it where there is a network: python tools/gpu_kit.py pack")
    offline = (*PIP, "install", "--quiet", "--no-compile", "--no-index", "--find-links", str(KIT))
    in_place = ("--no-build-isolation", "--editable")
    if subprocess.run([*offline, *BUILD], check=False).returncode:
        sys.exit("The tools that build this project could not be installed.")
    if subprocess.run([*offline, *in_place, str(ROOT / OURS[0])], check=False).returncode:
        sys.exit(f"{OURS[0]} could not be installed; what pip misses above must be there, or be added to gpu-kit/.")
    # A plugin without its library says so by itself.
    for name in OURS[1:]:
        if subprocess.run([*offline, *in_place, str(ROOT / name), "--no-deps"], check=False).returncode:
            print(f"{name} could not be installed, and is left out.")
    if subprocess.run([*offline, "--no-deps", BITS], check=False).returncode:
        print(f"{BITS} could not be installed, and what needs it is left out.")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a machine with a GPU and no network needs beside this folder.")
    parser.add_argument("do", choices=("pack", "install"))
    parser.add_argument("--python", default="3.12", help="version of the Python that has PyTorch there")
    parser.add_argument("--cuda", default="130", help="version of CUDA that PyTorch has there, as 130 for 13.0")
    given = parser.parse_args()
    if given.do == "pack":
        pack(given.python, given.cuda)
    else:
        install()


if __name__ == "__main__":
    main()
