"""How strongly a LoRA's factors count: alpha and rank, as its file, the file's header or PEFT's configuration say."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import safe_open

from dit360_core.errors import ModelError
from dit360_core.models.weights.schema import read_json

LARGEST_ALPHA = 1e6
"""No trainer comes near; what is beyond is a damaged file."""


@attrs.frozen(kw_only=True)
class Settings:
    """What PEFT's configuration says.

    source: where it stands, for errors.

    alpha: None if it says none.
    alphas: pattern of a layer's name → its own alpha.
    rooted: alpha is to be divided by the root of the rank (``use_rslora``).
    """

    source: str
    alpha: float | None = None
    alphas: Mapping[str, float] = attrs.field(factory=dict)
    rooted: bool = False

    def scale(self, names: tuple[str, ...], rank: int) -> float:
        """alpha / rank of a layer, known by any of these names; 1 where nothing is said."""
        # As PEFT matches (tuners_utils.get_pattern_key): the whole name, or its end after a dot; the first one counts.
        own = next(
            (
                alpha
                for pattern, alpha in self.alphas.items()
                if any(_matches(pattern, name) for name in names)
            ),
            None,
        )  # fmt: skip
        alpha = self.alpha if own is None else own
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if self.rooted else rank)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error:
        return pattern == name


def checked_alpha(alpha: Any, source: str) -> float:
    """A value of alpha as a number. Raises ModelError if it is none that a LoRA can have."""
    right = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not right or not 0 < alpha <= LARGEST_ALPHA:  # which nan is not, and integers of 400 digits are not
        told = f"{alpha!r:.40}" if not isinstance(alpha, int) or abs(alpha) < 10**20 else "a number of over 20 digits"
        raise ModelError(f"{source} says that alpha is {told}, which no LoRA has; download it again.")
    return float(alpha)


def settings_of(file: Path, parts: Collection[str]) -> dict[str, Settings]:
    """Part → what is said of its factors in the header of a file, or else in the configuration beside it.

    An ``adapter_config.json`` belongs to ``adapter_model*.safetensors`` in its folder and to no other file.
    """
    found = _of_header(file, parts)
    config = file.parent / "adapter_config.json"
    if not found and file.name.startswith("adapter_model") and config.is_file():
        try:
            told = read_json(config)
        except ValueError as error:  # an integer of more digits than Python reads
            raise ModelError(f"{config} is not readable JSON ({error}); download the LoRA again.") from error
        return dict.fromkeys(parts, _settings(told, str(config)))
    return found


def header_of(file: Path) -> Mapping[str, str]:
    """The free part of a safetensors header."""
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def _of_header(file: Path, parts: Collection[str]) -> dict[str, Settings]:
    text = header_of(file).get("lora_adapter_metadata")
    if text is None:
        return {}
    source = f"The header of {file}"
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} has a header that is no JSON ({error!s:.80}); download it again.") from error
    if not isinstance(told, dict):
        raise ModelError(f"{source} holds no settings in its lora_adapter_metadata; download it again.")
    found = {}
    for part in parts:
        own = {key.removeprefix(f"{part}."): value for key, value in told.items() if key.startswith(f"{part}.")}
        if not own and "lora_alpha" in told:
            own = told  # without the names of parts, which is how PEFT itself writes it
        if own:
            found[part] = _settings(own, source)
    return found


def _settings(told: Mapping[str, Any], source: str) -> Settings:
    if told.get("use_dora"):
        raise ModelError(f"{source} says that it is a DoRA, which dit360 cannot read; give a LoRA, or merge it.")
    kind = told.get("peft_type", "LORA")
    if str(kind).rpartition(".")[2].upper() != "LORA":
        raise ModelError(f"{source} says that it is of the kind {kind!r:.40}, and no LoRA; give a LoRA.")
    patterns = told.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{source} has an alpha_pattern that is no object; download it again.")
    rank = told.get("r", 1)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ModelError(f"{source} says that the rank is {rank!r:.40}, which no LoRA has; download it again.")
    alpha = told.get("lora_alpha")
    return Settings(
        source=source,
        alpha=None if alpha is None else checked_alpha(alpha, source),
        alphas={str(name): checked_alpha(value, f"{source} (alpha_pattern)") for name, value in patterns.items()},
        rooted=bool(told.get("use_rslora")),
    )
