"""The time shift of a FLUX model, read from its scheduler's configuration.

σ' = s / (s + 1/σ − 1), where s = exp(mu) and mu grows linearly with the number of image tokens, or s is a constant
(Esser et al. 2024, §5.3.2). FLUX.1-dev: mu 0.5 at 256 tokens and 1.15 at 4096, unclamped beyond: 1.865 at 8320.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from dit360_core.errors import ModelError

# Settings of FlowMatchEulerDiscreteScheduler that would change the noise levels in ways not done here.
_UNSUPPORTED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


@attrs.frozen(kw_only=True)
class FluxTimeShift:
    """A :class:`~dit360_core.plugins.offers.TimeShift`.

    dynamic: by token count, else by the constant ``shift``.
    """

    dynamic: bool = True
    shift: float = 1.0
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FluxTimeShift:
        """From a scheduler_config.json. Raises ModelError for settings that are not FLUX's."""
        odd = [name for name in _UNSUPPORTED if config.get(name)]
        if config.get("shift_terminal") or config.get("time_shift_type", "exponential") != "exponential":
            odd.append("shift_terminal or time_shift_type")
        if odd:
            raise ModelError(f"The model's scheduler asks for {', '.join(odd)}, which FLUX models do not use.")
        return cls(
            dynamic=bool(config.get("use_dynamic_shifting", False)),
            shift=float(config.get("shift", 1.0)),
            base_tokens=int(config.get("base_image_seq_len", 256)),
            max_tokens=int(config.get("max_image_seq_len", 4096)),
            base_shift=float(config.get("base_shift", 0.5)),
            max_shift=float(config.get("max_shift", 1.15)),
        )

    def mu(self, tokens: int) -> float:
        """The exponent at this many image tokens, pad columns included."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)

    def __call__(self, sigma: float, tokens: int) -> float:
        if sigma <= 0.0:
            return 0.0
        factor = math.exp(self.mu(tokens)) if self.dynamic else self.shift
        return factor / (factor + (1.0 / sigma - 1.0))
