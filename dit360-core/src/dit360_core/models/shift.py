"""The time shift of a flow model, read from its scheduler's configuration.

σ' = s / (s + 1/σ − 1), where s = exp(mu) and mu grows linearly with the number of image tokens, or s is a constant
(Esser et al. 2024, §5.3.2). FLUX.1-dev: mu 0.5 at 256 tokens and 1.15 at 4096, unclamped beyond: 1.865 at 8320. Where a
run is to end at a level above 0, all levels are stretched away from 1, as diffusers' scheduler does (shift_terminal).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dit360_core.errors import ModelError
from dit360_core.models.schemas import UNSUPPORTED_LEVELS


@attrs.frozen(kw_only=True)
class FlowShift:
    """A :class:`~dit360_core.plugins.offers.TimeShift`.

    dynamic: by token count, else by the constant ``shift``.
    base_tokens, max_tokens, base_shift, max_shift: two points of the line that mu lies on.
    exponent: image tokens, pad columns included → mu, in a family that has a formula of its own; None: the line.
    terminal: the last level before 0 of a run of ``steps`` steps spaced evenly; 0: as it comes.
    """

    dynamic: bool = True
    shift: float = 1.0
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15
    exponent: Callable[[int], float] | None = None
    terminal: float = 0.0
    steps: int = 1

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], steps: int = 1, exponent: Callable[[int], float] | None = None
    ) -> FlowShift:
        """From a scheduler_config.json.

        steps: of the run.
        exponent: as in the class.

        Raises ModelError for settings that no model is known to use.
        """
        odd = [name for name in UNSUPPORTED_LEVELS if config.get(name)]
        if config.get("time_shift_type", "exponential") != "exponential":
            odd.append("time_shift_type")
        if odd:
            raise ModelError(f"The model's scheduler asks for {', '.join(odd)}, which dit360 does not do.")
        return cls(
            dynamic=bool(config.get("use_dynamic_shifting", False)),
            shift=float(config.get("shift", 1.0)),
            base_tokens=int(config.get("base_image_seq_len", 256)),
            max_tokens=int(config.get("max_image_seq_len", 4096)),
            base_shift=float(config.get("base_shift", 0.5)),
            max_shift=float(config.get("max_shift", 1.15)),
            exponent=exponent,
            terminal=float(config.get("shift_terminal") or 0.0),
            steps=steps,
        )

    def mu(self, tokens: int) -> float:
        """The exponent at this many image tokens, pad columns included."""
        if self.exponent is not None:
            return self.exponent(tokens)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)

    def __call__(self, sigma: float, tokens: int) -> float:
        shifted = self._shifted(sigma, tokens)
        if not self.terminal:
            return shifted
        last = self._shifted(1.0 / self.steps, tokens)
        if last >= 1.0:  # a single step, which begins at 1
            return shifted
        if shifted < last:  # levels that are spaced in another way go on falling to 0
            return shifted / last * self.terminal
        return 1.0 - (1.0 - shifted) * (1.0 - self.terminal) / (1.0 - last)

    def _shifted(self, sigma: float, tokens: int) -> float:
        if sigma <= 0.0:
            return 0.0
        factor = math.exp(self.mu(tokens)) if self.dynamic else self.shift
        return factor / (factor + (1.0 / sigma - 1.0))
