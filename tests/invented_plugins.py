"""Distributions that exist only in memory, found through importlib.metadata's own classes and pluggy like real ones."""

import itertools
from importlib import metadata
from types import ModuleType

from dit360_core.plugins.hookspecs import KINDS, hookimpl
from dit360_core.plugins.offers import AttentionBackend, Model, Quantizer, Scheduler, Tiling

_numbers = itertools.count()


class Kept:
    """Holds the plugins, where entry points find them: ``invented_plugins:Kept.plugin_7``."""


class Distribution(metadata.Distribution):
    """A distribution whose files are given as text. ``None`` as metadata: what an interrupted uninstall leaves."""

    def __init__(self, entry_points: str, about: str | None) -> None:
        self._files = {"entry_points.txt": entry_points, "METADATA": about}

    def read_text(self, filename):
        return self._files.get(filename)

    def locate_file(self, path):
        raise FileNotFoundError(path)


def module(**contents) -> ModuleType:
    """A module with these functions in it."""
    made = ModuleType("invented_plugin")
    vars(made).update(contents)
    return made


def offering(*offers) -> ModuleType:
    """A plugin module that offers these values."""
    hooks = {}
    for hook, offer_class in KINDS.values():
        if mine := [offer for offer in offers if isinstance(offer, offer_class)]:
            hooks[hook] = hookimpl(specname=hook)(lambda mine=mine: mine)
    return module(**hooks)


def installed(distribution, plugin, *, version="1.0", name=None, about=...):
    """The entry points of a distribution with one plugin, any object; a text is taken for an entry point's value."""
    value = plugin
    if not isinstance(plugin, str):
        kept = next((name for name, other in vars(Kept).items() if other is plugin), f"plugin_{next(_numbers)}")
        setattr(Kept, kept, plugin)
        value = f"{__name__}:Kept.{kept}"
    entry_points = f"[dit360]\n{name or distribution.replace('-', '_')} = {value}\n"
    described = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n" if about is ... else about
    return list(Distribution(entry_points, described).entry_points)


def attention(name, load=lambda: object(), **about):
    return AttentionBackend(name=name, api=about.pop("api", 1), load=load, **about)


class Halves:
    """A quantizer in two lines: weights in bfloat16."""

    def quantize(self, linear, *, one_token):
        import torch

        class HalfLinear(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(linear.weight.bfloat16(), requires_grad=False)
                self.bias = linear.bias

            def forward(self, x):
                return torch.nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

        return HalfLinear()


def quantizer(name, load=Halves, **about):
    return Quantizer(name=name, api=about.pop("api", 1), load=load, **about)


def scheduler(name, load=lambda settings: object(), **about):
    return Scheduler(name=name, api=about.pop("api", 1), load=load, **about)


def tiling(name, load=lambda settings: object(), **about):
    return Tiling(name=name, api=about.pop("api", 1), exact=about.pop("exact", True), load=load, **about)


def model(name, **about):
    return Model(
        name=name,
        api=about.pop("api", 1),
        base=about.pop("base", "someone/somewhere"),
        width=about.pop("width", 512),
        height=about.pop("height", 256),
        **about,
    )
