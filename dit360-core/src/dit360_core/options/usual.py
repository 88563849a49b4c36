"""What a task is done with where nothing else is said, and the options themselves say something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USUAL_LARGER: Mapping[str, Any] = {"denoise": 0.35, "windows": "auto", "cube_consistency": 1.0}
"""Of a larger picture: enough is made anew for new detail, and too little for other things than there are."""
