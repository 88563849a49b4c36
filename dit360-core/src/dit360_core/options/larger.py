"""What is decided when a picture is made larger."""

from __future__ import annotations

import attrs

from dit360_core.options.choices import FAITHFULNESS
from dit360_core.options.declaring import option


@attrs.frozen(kw_only=True)
class LargerOptions:
    """What is decided when a picture is made larger."""

    faithful: str = option(
        "auto",
        help="Whether what the smaller picture shows stays as it is, and only what is finer than its pixels is new. "
        "auto: if at most half is made anew.",
        choices=FAITHFULNESS,
    )
