"""Where files lie that a user names by their names alone: in a folder of models, or in ComfyUI's."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError, first_line, named
from dit360_core.models.weights.forms.opening import looks_like_weights
from dit360_core.options import REPLACING, LoadOptions
from dit360_core.planning.loras import split
from dit360_core.system.naming import existing

log = logging.getLogger("dit360")

MODELS_DIR, COMFYUI = "DIT360_MODELS_DIR", "DIT360_COMFYUI"
"""Variables of the environment: a folder of models, and ComfyUI's own folder."""
_EXTRA = "extra_model_paths.yaml"
_TRANSFORMERS = ("diffusion_models", "unet", "checkpoints")
_TEXTS = ("text_encoders", "clip")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "model": ("checkpoints", "diffusion_models", "unet"), "transformer": _TRANSFORMERS, "vae": ("vae",),
    "lora": ("loras",),
}  # fmt: skip
"""Option → ComfyUI's folders for such files; those of text encoders are the rest."""
_EVERY = {*_TRANSFORMERS, *_TEXTS, "vae", "loras"}
_DEEPEST = 6


def located(asked: LoadOptions) -> LoadOptions:
    """The options with the paths of files that are named by their names, where there is a folder to look in.

    Raises ModelError for a name that is there twice.
    """
    roots = tuple(_roots(asked))
    if not roots:
        return asked
    found: dict[str, Any] = {}
    for option in ("model", *REPLACING):
        name = getattr(asked, option)
        if name and (path := _find(name, option, roots)) is not None:
            found[option] = str(path)
        elif name and _is_missing(name):
            folders = ", ".join(dict.fromkeys(str(root.folder) for root in roots if root.kind in ("", *_kinds(option))))
            raise ModelError(f"There is no {name} here, and none in {folders or 'any folder of models'}; see its name.")
    loras = []
    for text in asked.lora:
        name, strength = split(text)
        path = _find(name, "lora", roots)
        loras.append(text if path is None else f"{path}" + ("" if strength is None else f":{strength:g}"))
    return attrs.evolve(asked, lora=tuple(loras), **found)


def beside(asked: LoadOptions) -> Callable[[str], tuple[Path, ...]]:
    """What gives, for an option that names a part, the files of weights in the folders where such parts lie."""

    @functools.cache
    def files(option: str) -> tuple[Path, ...]:
        found: dict[Path, Path] = {}
        for root in _roots(asked):
            for at, inside, names in os.walk(root.folder, followlinks=True):
                deep = len(Path(at).relative_to(root.folder).parts)
                inside[:] = sorted(each for each in inside if not each.startswith(".")) if deep < _DEEPEST else []
                here = {root.kind, *Path(at).relative_to(root.folder.parent).parts}
                anywhere = not root.kind and not here & _EVERY
                if anywhere or here & set(_kinds(option)):
                    for name in sorted(filter(looks_like_weights, names)):
                        found.setdefault((Path(at) / name).resolve(), Path(at) / name)
        return tuple(found.values())

    return files


@attrs.frozen
class _Root:
    """A folder to look in.

    kind: ComfyUI's name for what lies in it; empty: anything.
    """

    folder: Path
    kind: str = ""


def _roots(asked: LoadOptions) -> Iterator[_Root]:
    given = asked.models_dir or os.environ.get(MODELS_DIR)
    if given:
        yield _Root(_folder(given, named("models_dir") if asked.models_dir else MODELS_DIR))
    if comfyui := os.environ.get(COMFYUI):
        folder = _folder(comfyui, COMFYUI)
        for kind in dict.fromkeys((*_TRANSFORMERS, *_TEXTS, "vae", "loras")):
            if (folder / "models" / kind).is_dir():
                yield _Root(folder / "models" / kind, kind)
        yield from _extra(folder / _EXTRA)


def _folder(text: str, said_by: str) -> Path:
    path = existing(text)
    if path is None or not path.is_dir():
        raise ModelError(f"{said_by} names {text}, and there is no such folder; name one that is there.")
    return path


def _extra(file: Path) -> Iterator[_Root]:
    """What ComfyUI's file of further folders names."""
    if not file.is_file():
        return
    import yaml  # only who has such a file needs it

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        sections = [section for section in told.values() if isinstance(section, dict)]
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}); mend it, or move it away.") from error
    for section in sections:
        base = file.parent / Path(os.path.expandvars(str(section.get("base_path") or "."))).expanduser()
        for kind, paths in section.items():
            if kind in ("base_path", "is_default") or not isinstance(paths, str):
                continue
            for line in filter(None, map(str.strip, paths.split("\n"))):
                folder = base / Path(line).expanduser()
                if folder.is_dir():
                    yield _Root(folder, kind)


def _kinds(option: str) -> tuple[str, ...]:
    return _KINDS.get(option, _TEXTS)


def _is_missing(name: str) -> bool:
    """Whether a name is a file's, and of none that is here."""
    return existing(name) is None and looks_like_weights(name)


def _find(name: str, option: str, roots: Iterable[_Root]) -> Path | None:
    if existing(name) is not None or not Path(name).suffix or Path(name).is_absolute():
        return None
    kinds = _kinds(option)
    hits = {path.resolve(): path for root in roots if root.kind in ("", *kinds) for path in _files(root.folder, name)}
    if len(hits) > 1:
        # Of the same name, that which lies in a folder for such files is meant.
        fitting = {real: path for real, path in hits.items() if set(path.parts) & set(kinds)}
        hits = fitting if len(fitting) == 1 else hits
    if len(hits) > 1:
        first, second, *_ = sorted(map(str, hits.values()))
        raise ModelError(f"{name} is there more than once ({first}, {second}); give the path of the one you mean.")
    found = next(iter(hits.values()), None)
    if found is not None:
        log.info("%s is %s", name, found)
    return found


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Files of that name in a folder and the folders in it; the name may begin with some of these."""
    wanted = Path(name)
    for at, inside, files in os.walk(folder, followlinks=True):
        depth = len(Path(at).relative_to(folder).parts)
        inside[:] = sorted(each for each in inside if not each.startswith(".")) if depth < _DEEPEST else []
        if wanted.name in files:
            path = Path(at) / wanted.name
            if path.parts[-len(wanted.parts) :] == wanted.parts:
                yield path
