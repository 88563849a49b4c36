"""Inputs of nodes, made from the options of the core: one default, one range and one sentence of help for both."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from dit360_core.errors import InputError
from dit360_core.errors.sentences import marked, worded
from dit360_core.options import Option, options_of

from dit360_comfy.choices import choices
from dit360_comfy.words import WordsOfNodes

Spec = tuple[Any, dict[str, Any]]
"""What ComfyUI knows of an input: its type, or the choices of a drop-down, and its settings."""

SWITCH = ("model", "on", "off")
"""For an option that is True, False or the model's own."""


@attrs.frozen(kw_only=True)
class Control:
    """An input that is an option of the core.

    options: the class of it.
    option: its name there.

    name: of the input, where workflows know it by another.
    unset: the value that leaves the option at None, which is the model's own or none.
    settings: changes ComfyUI's, such as ``default``, ``min``, ``max``, ``step``.
    choices: instead of those of the option.
    tooltip: instead of the option's help, whose meaning the input changes.
    """

    options: type
    option: str
    name: str = attrs.field()
    unset: Any = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    choices: tuple[str, ...] | None = None
    tooltip: str | None = None

    @name.default
    def _as_the_option(self) -> str:
        return self.option

    @property
    def _known(self) -> Option:
        return options_of(self.options)[self.option]

    def spec(self) -> Spec:
        """As INPUT_TYPES tells ComfyUI."""
        known = self._known
        default = self.unset if known.default in (None, attrs.NOTHING) else known.default
        settings: dict[str, Any] = {"default": default}
        if known.kind is bool and known.optional:
            return list(SWITCH), self._finished({"default": SWITCH[0]})
        if known.kind is bool:
            return "BOOLEAN", self._finished(settings)
        if known.kind in (int, float):
            settings |= {"min": known.minimum, "max": known.maximum, "step": known.step}
            if self.unset is not None:
                settings["min"] = min(self.unset, settings["min"])
            if known.kind is float:
                # Without them the front end rounds to whole numbers.
                settings |= {"step": 0.05, "round": 0.01}
            return known.kind.__name__.upper(), self._finished(settings)
        if few := self.choices or known.choices:
            return list(few), self._finished(settings)
        if known.offers:
            found = choices(known.offers, first=[settings["default"]] if settings["default"] else [])
            return list(found.names), self._finished(settings, found.unavailable)
        return "STRING", self._finished({**settings, "default": settings["default"] or ""})

    def _finished(self, settings: dict[str, Any], more: str = "") -> dict[str, Any]:
        help_ = self.tooltip or worded(marked(self._known.help), WordsOfNodes())
        if self.unset is not None and not self.tooltip and self._known.unset:
            help_ += f" {_shown(self.unset)}: {self._known.unset}."
        return {**settings, **self.settings, "tooltip": f"{help_} {more}".strip()}

    def value(self, given: Any) -> Any:
        """What the core is to be asked for."""
        if given is None:
            return None
        known = self._known
        if known.optional and known.kind is bool:
            return {"model": None, "on": True, "off": False}[given]
        if known.optional and given in ("", self.unset):
            return None
        if known.kind is int and given == int(given):
            return int(given)  # other packs' nodes give numbers of numpy
        return float(given) if known.kind is float else given


def _shown(value: Any) -> str:
    return "Empty" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def asked(controls: Iterable[Control], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the core, from the inputs that are there. Those linked to another node are None before it ran,
    and left out."""
    found = {}
    for control in controls:
        value = control.value(given.get(control.name))
        if value is not None:
            found[control.option] = value
    return found


def specs(controls: Iterable[Control], *, advanced: Sequence[str] = ()) -> dict[str, Spec]:
    """Of all of them, by name.

    advanced: those that newer front ends show only when they are asked to.
    """
    found = {}
    for control in controls:
        kind, settings = control.spec()
        found[control.name] = (kind, {**settings, "advanced": True} if control.name in advanced else settings)
    return found


def check(node: Any, given: Mapping[str, Any], *, free: Sequence[str] = ()) -> None:
    """Raises InputError for a value that its input does not allow.

    ComfyUI leaves this to a node that checks its inputs itself. Linked inputs are None before the node runs, and pass.

    free: drop-downs that take other values too, which somebody else looks at.
    """
    described = node.INPUT_TYPES()
    every = {**described.get("required", {}), **described.get("optional", {})}
    for name, value in given.items():
        if name not in every or value is None:
            continue
        kind, settings = every[name][0], every[name][1] if len(every[name]) > 1 else {}
        if isinstance(kind, list):
            if value not in kind and name not in free:
                raise InputError(f"{name} is {value!r}, but must be one of: {', '.join(map(str, kind))}.")
        elif type(kind) is str and kind in ("INT", "FLOAT"):  # not the type that equals every other
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise InputError(f"{name} is {value!r}, but must be a number.")
            if not isinstance(value, numbers.Integral) and not math.isfinite(value):
                raise InputError(f"{name} is {value}, but must be a number.")
            low, high = settings.get("min", -math.inf), settings.get("max", math.inf)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}, but must be {low} … {high}.")
