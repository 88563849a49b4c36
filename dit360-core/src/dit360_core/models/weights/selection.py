"""Which Linear layers of a part are quantized, by patterns of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import attrs
import torch

from dit360_core.errors import InputError, named


@attrs.frozen(kw_only=True)
class Policy:
    """Which Linear layers of a part are quantized. Names are matched by patterns of ``fnmatch``.

    left: pattern → why such layers stay as they are.
    one_token: layers that see one token a picture.
    """

    left: Mapping[str, str] = attrs.field(factory=dict)
    one_token: tuple[str, ...] = ()

    def sees_one_token(self, name: str) -> bool:
        """Whether a layer is one of ``one_token``."""
        return any(fnmatchcase(name, pattern) for pattern in self.one_token)


@attrs.frozen(kw_only=True)
class Selection:
    """Which layers of a part are quantized.

    layers: those to quantize, each with whether it sees one token.
    left: layer → why not.
    """

    layers: Mapping[str, bool]
    left: Mapping[str, str]


def linear_layers(module: torch.nn.Module) -> list[str]:
    """The names of the plain Linear layers of a module; classes derived from them are somebody's quantized ones."""
    return [name for name, layer in module.named_modules() if type(layer) is torch.nn.Linear]


def patterns_of(skip: str) -> tuple[str, ...]:
    """The patterns of ``quantization_skip``."""
    return tuple(text.strip() for text in skip.split(",") if text.strip())


def select_layers(module: torch.nn.Module, policy: Policy, skip: str = "") -> Selection:
    """Looks at every Linear of a module.

    skip: more patterns to leave out, separated by commas.

    Raises InputError if nothing is left to quantize.
    """
    names = linear_layers(module)
    reasons = {**dict.fromkeys(patterns_of(skip), "asked for"), **policy.left}
    why_not = {name: next((why for p, why in reasons.items() if fnmatchcase(name, p)), None) for name in names}
    left = {name: why for name, why in why_not.items() if why is not None}
    layers = {name: policy.sees_one_token(name) for name in names if name not in left}
    if not layers:
        why = "all of them are left out" if names else "it has no plain Linear layers, or is quantized already"
        raise InputError(f"No layer of the {type(module).__name__} would be quantized: {why}; quantize another part.")
    return Selection(layers=layers, left=left)


def check_patterns(skip: str, names: list[str]) -> None:
    """Raises InputError for a pattern of ``quantization_skip`` that is no layer's."""
    for pattern in patterns_of(skip):
        if not any(fnmatchcase(name, pattern) for name in names):
            examples = ", ".join(names[:: max(1, len(names) // 3)][:3])
            raise InputError(
                f"{named('quantization_skip')}: no layer is called {pattern!r}; write names or patterns such as "
                f"'*.proj_mlp' (of the {len(names)} layers, some are: {examples})."
            )


def selections(
    modules: Mapping[str, torch.nn.Module], skip: str, policy: Callable[[str], Policy], *, checked: bool = True
) -> dict[str, Selection]:
    """What to quantize of each part.

    modules: name of a part → the part.
    skip: as in ``quantization_skip``.
    policy: of a part, by its name.
    checked: refuse a pattern that is no layer's.

    Raises InputError for such a pattern, or if nothing of a part would be quantized.
    """
    if checked:
        check_patterns(skip, [name for module in modules.values() for name in linear_layers(module)])
    return {part: select_layers(module, policy(part), skip) for part, module in modules.items()}
