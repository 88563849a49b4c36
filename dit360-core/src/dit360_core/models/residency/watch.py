"""Looks in while a model is running, so that somebody who wants it to stop need not wait for the end of a step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dit360_core.errors import mark_as_callers


class Watch:
    """Calls ``check`` before each Linear layer of the parts that it is put over; what that raises comes out of them.

    Compiled blocks are left alone: a hook in them would have to be compiled too.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._hooks: list[Any] = []

    def over(self, *parts: torch.nn.Module | None) -> None:
        """Watches parts, each once."""
        for part in parts:
            if part is not None and part not in self._seen:
                self._seen.add(part)
                self._hooks += [layer.register_forward_pre_hook(self._look) for layer in _watchable(part)]

    def end(self) -> None:
        """Lets go of all of them."""
        while self._hooks:
            self._hooks.pop().remove()

    def check(self) -> None:
        """Looks in once. What is raised is the caller's own, whatever plugin was running."""
        try:
            self._check()
        except BaseException as error:
            mark_as_callers(error)
            raise

    def _look(self, *_: Any) -> None:
        self.check()


def _watchable(part: torch.nn.Module) -> Iterator[torch.nn.Module]:
    compiled = [module for module in part.modules() if module._compiled_call_impl is not None]
    left_out = {id(layer) for block in compiled for layer in block.modules()}
    for layer in part.modules():
        # Quantized layers are none of torch's own, but they have the two sizes.
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and id(layer) not in left_out:
            yield layer


@contextmanager
def between_convolutions(watches: Sequence[Watch]) -> Iterator[None]:
    """In this block all ``watches`` look in before each convolution: an autoencoder in tiles calls no layer as such."""
    if not watches:
        yield
        return
    with _Looking(watches):
        yield


class _Looking(TorchFunctionMode):
    def __init__(self, watches: Sequence[Watch]) -> None:
        super().__init__()
        self._watches = watches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            for watch in self._watches:
                watch.check()
        return func(*args, **(kwargs or {}))
