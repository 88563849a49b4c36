"""Keeps what diffusers and transformers say to developers off a user's terminal."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

_quietening = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' own chatter (progress bars, missing optional packages) off the terminal, for this block."""
    # Importing diffusers makes transformers warn of torchvision, which is not needed. Reading a prompt makes it warn
    # that one text encoder cuts it, which another does not. And diffusers imports an installed xFormers, which warns if
    # it was built for another PyTorch, asked for or not ('dit360 backends' tells those who ask). The levels are the
    # libraries' own and are put back; the lock keeps two threads from putting back each other's.
    with _quietening:
        yield from _quiet()


@contextlib.contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Puts torch's default dtype back, which diffusers changes while it loads, and leaves changed where that fails."""
    import torch

    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers", "xformers", "bitsandbytes", "kernels")]
    levels, errors = [logger.level for logger in loggers], [logging.ERROR] * len(loggers)

    def set_levels(wanted: list[int]) -> None:
        for logger, level in zip(loggers, wanted, strict=True):
            if logger.level != level:  # setting it goes through all loggers that there are, a thousand
                logger.setLevel(level)

    try:  # from the first change on: an interrupt may come between any two
        set_levels(errors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|diffusers|huggingface_hub|torch)\b")
            from diffusers.utils import logging as diffusers_logging
            from transformers.utils import logging as transformers_logging

            set_levels(errors)  # again: being imported for the first time, transformers sets its own
            libraries: list[Any] = [diffusers_logging, transformers_logging]
            shown = [library for library in libraries if library.is_progress_bar_enabled()]
            try:
                for library in shown:
                    library.disable_progress_bar()
                yield
            finally:
                for library in shown:
                    library.enable_progress_bar()
    finally:
        try:
            set_levels(levels)
        finally:
            set_levels(levels)  # again, should the first have been interrupted
