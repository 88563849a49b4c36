"""For what the installed PyTorch was built, read from its files without importing it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import attrs

from dit360_core.system.installed import installed_version


@attrs.frozen(kw_only=True)
class Build:
    """cuda, hip: the version of CUDA or of AMD's HIP that PyTorch was built for, or None.

    known: whether its files say so; where they do not, it may have been built for anything.
    version: its own, or empty where there is no PyTorch.
    """

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    known: bool = True

    @property
    def may_have_cuda(self) -> bool:
        """Whether its device ``cuda`` could be there: NVIDIA's, or AMD's, which it calls so too."""
        return not self.known or self.cuda is not None or self.hip is not None


def installed_build() -> Build:
    """That of the PyTorch which ``import torch`` would take."""
    version = installed_version("torch") or ""
    folder = _folder()
    if folder is None:
        return Build(version=version)
    return build_in(folder, version)


def build_in(folder: Path, version: str = "") -> Build:
    """For what the PyTorch in a folder was built.

    folder: the package ``torch``.
    version: what its metadata say, whose local part tells where the file does not.
    """
    try:
        told = _assigned(ast.parse((folder / "version.py").read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        told = {}
    if "cuda" in told:
        return Build(
            version=str(told.get("__version__") or version),
            cuda=_text(told["cuda"]),
            hip=_text(told.get("hip")),
        )
    label = version.partition("+")[2]
    if label.startswith("cu") and label[2:].isdigit():  # cu130 is 13.0
        return Build(version=version, cuda=f"{label[2:-1]}.{label[-1]}")
    if label.startswith("rocm"):
        return Build(version=version, hip=label.removeprefix("rocm"))
    return Build(version=version, known=label.startswith(("cpu", "xpu")) or sys.platform == "darwin")


def _folder() -> Path | None:
    try:
        found = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(places[0]) if places else None


def _assigned(module: ast.Module) -> dict[str, object]:
    """Names that are given a literal value at the top of a file."""
    values: dict[str, object] = {}
    for line in module.body:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or not isinstance(line.value, ast.Constant):
            continue
        names = line.targets if isinstance(line, ast.Assign) else [line.target]
        values.update({name.id: line.value.value for name in names if isinstance(name, ast.Name)})
    return values


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
