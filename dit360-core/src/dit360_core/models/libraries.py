"""diffusers and transformers, which can be installed and yet not work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dit360_core.errors import ModelError


@contextmanager
def explain_broken_import() -> Iterator[None]:
    """Raises ModelError where one of them cannot be imported in this block.

    They import their parts only when these are asked for, and say the cause on the last line.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        if not isinstance(error, ImportError) and not str(error).startswith("Failed to import"):
            raise
        cause = str(error).strip().rpartition("\n")[2]
        raise ModelError(
            f"diffusers or transformers cannot be imported here ({cause}); repair or uninstall what that names."
        ) from error
