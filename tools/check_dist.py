"""Every extra of dit360-core, from the wheels in dist/, in an environment of its own: ``make check-dist``.

In each: installed from wheels alone, by pip, without a compiler on the PATH; what is installed is what was built; its
offers are listed, with a reason where one cannot be used here; what the extra brings makes a panorama, and it closes.

    python tools/check_dist.py [EXTRA …] [--keep]        FLAGS="bnb ddim" make check-dist
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from environments import ROOT, Environment, Failed, fail, metadata_of, table, version_of, wheels

CONSTRAINTS = ROOT / "constraints.txt"
CORE = "dit360-core"
PROMPT = "a castle above a meadow at sunset"
# In standard deviations of the picture's own steps: within ±3 a seam is a step like others; a cut picture has 18.
SEAM = 3.0
# What a picture is made with, and what must then be told as used; where an extra is not named, the defaults.
MADE_WITH = {
    "bnb": (["--quantization-mode", "int4"], ("quantization", "dit360-quant-bnb")),
    "ddim": (["--scheduler-type", "ddim", "--scheduler-eta", "0.3"], ("scheduler", "dit360-sched-ddim")),
    "exr": (["--expand-highlights"],),
    # No CUDA device is expected: the kernels are asked for, and the core's takes their place with a warning.
    "flash": (["--attention-backend", "flash"], ("attention", CORE)),
    "int4": (["--quantization-mode", "int4-double"], ("quantization", "dit360-quant-bnb")),
    "xformers": (["--attention-backend", "xformers"], ("attention", CORE)),
    "all": (
        ["--quantization-mode", "int8-bnb", "--scheduler-type", "ddim"],
        ("quantization", "dit360-quant-bnb"),
        ("scheduler", "dit360-sched-ddim"),
    ),
}

# Of the picture, for extras that bring a library of files.
ENDINGS = {"exr": ".exr", "formats": ".exr", "tiff": ".tif"}


def extras(wheel: Path) -> list[str]:
    return metadata_of(wheel, "Provides-Extra")


def check_offers(environment: Environment, here: set[str]) -> str:
    """All that is installed is listed and nothing failed; (usable here) of (all) offers."""
    report = json.loads(environment.run(environment.bin / "dit360", "backends", "--json"))
    if report["failures"]:
        raise Failed(f"plugins failed: {report['failures']}")
    offering = {offer["distribution"] for offer in report["offers"]}
    expected = here - {"dit360-comfy"} | {CORE}
    if offering != expected:
        raise Failed(f"offers are of {sorted(offering)} instead of {sorted(expected)}")
    silent = [o["name"] for o in report["offers"] if not o["available"] and not o["reasons"]]
    if silent:
        raise Failed(f"no reason is told why these cannot be used: {silent}")
    return f"{sum(offer['available'] for offer in report['offers'])} of {len(report['offers'])}"


def check_picture(environment: Environment, extra: str) -> float:
    """Makes a panorama with what the extra brings; how unusual the step over its seam is."""
    dit360 = environment.bin / "dit360"
    arguments, *expected = MADE_WITH.get(extra, ([],))
    if extra == "ray":
        (environment.work / "list.txt").write_text(PROMPT + "\n", encoding="utf-8")
        environment.run(dit360, "batch", "list.txt", "-o", "pictures", "--engine", "ray", "--workers", "1")
        (picture,) = (environment.work / "pictures").glob("*.jpg")
    else:
        picture = environment.work / f"castle{ENDINGS.get(extra, '.jpg')}"
        environment.run(dit360, "generate", PROMPT, "--seed", "7", *arguments, "-o", picture)
    told = json.loads(environment.run(dit360, "inspect", "--json", picture))
    for kind, distribution in expected:
        used = told["settings"]["used"][kind]
        if used["distribution"] != distribution:
            raise Failed(f"the picture was made with {kind} of {used['distribution']}, not of {distribution}")
    seam = float(told["seam_z_score"])
    if abs(seam) >= SEAM:
        raise Failed(f"the panorama has a seam: its z-score is {seam:.1f}, where ±{SEAM} is right")
    return seam


def check_comfy(environment: Environment) -> None:
    """The nodes get into a folder that looks like ComfyUI's."""
    base = environment.work / "ComfyUI"
    for name in ("comfy", "custom_nodes", "models", "user"):
        (base / name).mkdir(parents=True)
    (base / "main.py").touch()
    (base / "comfyui_version.py").write_text('__version__ = "0.8.0"\n', encoding="utf-8")
    environment.run(environment.bin / "dit360-comfy", "install", "--comfyui", base)
    if not (base / "custom_nodes" / "dit360-comfy" / "__init__.py").is_file():
        raise Failed("dit360-comfy install put no nodes there")
    names = environment.run(
        environment.python, "-c", "from dit360_comfy.nodes import NODE_CLASS_MAPPINGS as n; print(*n)"
    )
    if "DiT360Sampler" not in names.split():
        raise Failed("there are no nodes")


def check(environment: Environment, extra: str) -> dict[str, object]:
    """Installs an extra ("" for none), checks it, and returns its row of the table."""
    built = wheels()
    wanted = f"{CORE}[{extra}]" if extra else CORE
    environment.install(f"{wanted}=={version_of(built[CORE])}", constraints=[CONSTRAINTS])
    started = time.monotonic()
    environment.run(environment.python, "-m", "pip", "check")
    installed = environment.installed()
    here = {name for name in installed if name in built}
    for name in sorted(here):
        environment.check_files(name, built[name])
    for compiler in ("cc", "gcc", "c++", "g++", "clang", "cl", "nvcc", "ninja"):
        if shutil.which(compiler, path=environment.surroundings()["PATH"]):
            raise Failed(f"{compiler} is on the PATH, so this proves nothing about compiling")
    version = environment.run(environment.bin / "dit360", "--version").strip()
    if version != f"dit360 {version_of(built[CORE])}":
        raise Failed(f"dit360 --version says {version}")
    offers = check_offers(environment, here)
    environment.run(environment.bin / "dit360", "doctor")
    seam = check_picture(environment, extra)
    if "dit360-comfy" in here:
        check_comfy(environment)
    return {
        "installed": wanted,
        "of this project": ", ".join(sorted(name.removeprefix("dit360-") for name in here)),
        "packages": len(installed),
        "torch": installed["torch"],
        "GB": f"{environment.size() / 1e9:.2f}",
        "s to install": round(environment.seconds),
        "s to check": round(time.monotonic() - started),
        "usable here": offers,
        "seam z": f"{seam:.1f}",
    }


def tried(name: str, folder: Path, keep: bool, work: Callable[[Environment], dict[str, object]]) -> dict[str, object]:
    """Does something in a fresh environment and says so in one line; the environment is gone afterwards."""
    started = time.monotonic()
    try:
        return work(Environment(folder))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    known = ["core", *sorted(extras(wheels()[CORE]))]
    asked = argparse.ArgumentParser(description="Installs and tries dit360-core with every extra, from dist/.")
    asked.add_argument("extra", nargs="*", choices=[[], *known], help=f"of {', '.join(known)}; all of them if none")
    asked.add_argument("--keep", action="store_true", help="leave the environments there, and say where")
    given = asked.parse_args()
    rows: list[dict[str, object]] = []
    failures: list[str] = []
    base = Path(tempfile.mkdtemp(prefix="dit360-check-dist-"))
    for name in given.extra or known:
        try:
            extra = "" if name == "core" else name
            rows.append(tried(name, base / name, given.keep, partial(check, extra=extra)))
        except Failed as error:
            failures.append(f"{name}: {error}")
    if given.keep:
        print(f"The environments are in {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    print(f"\n{table(rows)}")
    fail(failures)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        fail([str(error)])
