"""Looks at one ComfyUI and this Python for what keeps the nodes from working: checks, each with its remedy."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

import attrs
from dit360_core.errors import InputError
from dit360_core.system.installed import installed_version
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from dit360_comfy.installing import NAME, PACK, Comfy, is_stale, look, others, version_of

OLDEST_COMFYUI = "0.3.64"

State = Literal["ok", "warn", "fail"]


@attrs.frozen
class Check:
    """One thing that was looked at.

    name: what was looked at.
    told: what was found.
    todo: what to do about it, empty where nothing need be.
    """

    name: str
    state: State
    told: str
    todo: str = ""


def examine(comfy: Comfy | None) -> list[Check]:
    """Every check, in the order in which to read them. comfy None: those of this Python alone."""
    checks = []
    if comfy is None:
        checks.append(Check("ComfyUI", "warn", "none was named", "add --comfyui DIR or set COMFYUI_DIR"))
    else:
        checks += [_comfyui(comfy), _pack(comfy)]
        checks += [Check("other copies", "warn", said) for said in others(comfy)]
        checks.append(interpreter(comfy))
    checks += [_requirement(name) for name in ("torch", "diffusers", "transformers")]
    return [*checks, _nodes(), *_plugins()]


# --------------------------------------------------------------------------------------------------------- of ComfyUI


def _comfyui(comfy: Comfy) -> Check:
    if comfy.program is None:
        return Check("ComfyUI", "ok", f"base directory {comfy.root}, of a program elsewhere")
    version = _comfyui_version(comfy.program)
    told = f"{version or 'of unknown version'} in {comfy.program}"
    if version is None:
        return Check("ComfyUI", "warn", told, f"{OLDEST_COMFYUI} or newer is needed; update it if it is older")
    if Version(version) < Version(OLDEST_COMFYUI):
        return Check("ComfyUI", "fail", told, f"update it to {OLDEST_COMFYUI} or newer")
    return Check("ComfyUI", "ok", told)


def _comfyui_version(program: Path) -> str | None:
    # Read, not imported: whatever else is in that folder is not ours to run.
    try:
        text = (program / "comfyui_version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    try:
        return str(Version(found[1])) if found else None
    except InvalidVersion:
        return None


def refuse_too_old(comfy: Comfy) -> None:
    """Raises InputError for a ComfyUI in which the nodes cannot work."""
    found = _comfyui(comfy)
    if found.state == "fail":
        raise InputError(
            f"ComfyUI is {found.told}, which is too old for these nodes; {found.todo}, then install again."
        )


def _pack(comfy: Comfy) -> Check:
    place = comfy.place
    found = look(place)
    again = f"run '{NAME} install --comfyui {shlex.quote(str(comfy.root))}'"
    if found.kind == "nothing":
        return Check("nodes", "fail", f"not in {comfy.custom_nodes}", again)
    told = f"{place} is {found.what}"
    if found.kind == "dead":
        return Check("nodes", "fail", f"{told}, which is gone", again)
    if found.kind == "foreign":
        ours = version_of(place) if "these nodes" in found.what else None
        if ours is not None:
            return _of_version(told, ours, "update or remove it with what put it there")
        return Check("nodes", "fail", told, f"remove or rename it, then {again}")
    if found.kind == "elsewhere":
        return Check("nodes", "warn", f"{told}, of another Python environment", f"{again} with ComfyUI's Python")
    if found.kind == "copy" and is_stale(place):
        return Check(
            "nodes", "warn", f"{told} of version {version_of(place)}, not what {version_of(PACK)} would be", again
        )
    return _of_version(told, version_of(place), f"reinstall {NAME}")


def _of_version(told: str, version: str | None, todo: str) -> Check:
    package = installed_version(NAME)
    told = f"{told}, version {version}"
    if version == package:
        return Check("nodes", "ok", told)
    return Check("nodes", "warn", f"{told}, but the package is {package}", todo)


# ----------------------------------------------------------------------------------------------------------- Pythons


def interpreter(comfy: Comfy) -> Check:
    """Whether ComfyUI's own Python, as far as one is beside it, is the one that this runs in."""
    here = Path(sys.prefix).resolve()
    beside = _environments(comfy)
    if not beside:
        told = f"which one starts ComfyUI cannot be seen; it has to be {sys.executable}, or one with {NAME} of its own"
        return Check("Python", "ok", told)
    if any(prefix.resolve() == here for prefix, _ in beside):
        return Check("Python", "ok", f"{sys.executable}, ComfyUI's own")
    prefix, python = beside[0]
    told = f"ComfyUI's Python is {python}, but this is {sys.executable}"
    if _in_environment(prefix, "dit360_comfy-*.dist-info"):
        script = prefix / "Scripts" / f"{NAME}.exe" if python.suffix == ".exe" else python.with_name(NAME)
        return Check("Python", "warn", told, f"use the command of that one: {_shell(script)}")
    command = _shell(python, "-m", "pip", "install", NAME)
    if not _in_environment(prefix, "pip"):  # environments made by uv have none, ComfyUI Desktop's among them
        command = _shell("uv", "pip", "install", "--python", python, NAME)
    return Check("Python", "warn", told, f"{NAME} must be installed there: {command}")


def _environments(comfy: Comfy) -> list[tuple[Path, Path]]:
    """(prefix, interpreter) of each Python environment in or beside ComfyUI."""
    root = comfy.root
    prefixes = [root / "venv", root / ".venv", root.parent / "python_embeded"]
    found = []
    for prefix in prefixes:
        for inside in ("bin/python", "Scripts/python.exe", "python.exe"):
            if (prefix / inside).exists():
                found.append((prefix, prefix / inside))
                break
    return found


def _in_environment(prefix: Path, pattern: str) -> bool:
    places = ("lib/python*/site-packages", "Lib/site-packages")
    return any(True for place in places for _ in prefix.glob(f"{place}/{pattern}"))


def _shell(*words: str | Path) -> str:
    texts = [str(word) for word in words]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def _requirement(name: str) -> Check:
    """Whether what is installed is what dit360-core wants, so that installing it replaces nothing."""
    wanted = _wanted(name)
    there = installed_version(name)
    if there is not None and wanted.specifier.contains(there, prereleases=True):
        return Check(name, "ok", f"{there}, which installing dit360-core leaves as it is (it needs {wanted})")
    command = f'{_shell(sys.executable, "-m", "pip", "install")} "{wanted}"'
    if there is None:
        return Check(name, "fail", f"not installed; {wanted} is needed", command)
    return Check(name, "fail", f"{there}, but {wanted} is needed", f"update it as ComfyUI's manual says, or: {command}")


def _wanted(name: str) -> Requirement:
    requirements = map(Requirement, metadata.requires("dit360-core") or ())
    return next(r for r in requirements if r.name == name and (r.marker is None or r.marker.evaluate({"extra": ""})))


# ------------------------------------------------------------------------------------------------------------ dit360


def _nodes() -> Check:
    """Whether what ComfyUI will import can be imported; in a process of its own, which may fail as it likes."""
    code = "import dit360_comfy.nodes as n; print(len(n.NODE_CLASS_MAPPINGS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Check("import", "fail", f"dit360_comfy.nodes: {said[-1]}", f"reinstall {NAME} and what it names")
    return Check("import", "ok", f"{done.stdout.split()[-1]} nodes")


def _plugins() -> list[Check]:
    from dit360_core.plugins.hookspecs import KINDS
    from dit360_core.plugins.registry import default_registry

    with contextlib.redirect_stdout(sys.stderr):
        registry = default_registry()
        offers = {kind: len(registry.entries(kind)) for kind in KINDS}
        failures = registry.failures
    told = ", ".join(f"{count} {kind}" for kind, count in offers.items())
    return [
        Check("backends", "ok", told),
        *(Check("plugin", "fail", str(f), f"update or uninstall {f.distribution}") for f in failures),
    ]
