"""The phases of a picture whose memory and time are predicted, measured and told."""

from __future__ import annotations

import enum


class PhaseKind(enum.StrEnum):
    """What a phase is, whatever it is called for people."""

    LOADING = "loading"
    ENCODE = "encode"
    TEXT = "text encoding"
    STEP = "step"
    DECODE = "decode"
