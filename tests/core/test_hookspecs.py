"""The documentation of the hooks is true: each has an example, and the examples work as plugins."""

import inspect
import itertools
import re
import textwrap

import pytest
from dit360_core.plugins import PLUGIN_API, SchedulerSettings, hookspecs
from dit360_core.plugins.hookspecs import KINDS, Dit360Spec
from dit360_core.plugins.registry import Registry
from invented_plugins import installed, module


def example_of(hook):
    """The code block of a hook's docstring."""
    about = inspect.getdoc(getattr(Dit360Spec, hook))
    return textwrap.dedent(about.partition("Example::\n")[2])


def plugin_of(hook):
    """The example run as a module, as it stands."""
    made = module()
    exec(compile(example_of(hook), f"<example of {hook}>", "exec"), vars(made))
    return made


HOOKS = [(kind, hook, offer_class) for kind, (hook, offer_class) in KINDS.items()]


def test_every_hook_collects_one_kind_of_offer():
    declared = [name for name in vars(Dit360Spec) if name.startswith("dit360_")]
    assert sorted(declared) == sorted(hook for hook, _ in KINDS.values())


@pytest.mark.parametrize(("kind", "hook", "offer_class"), HOOKS)
def test_the_example_of_a_hook_is_a_working_plugin(kind, hook, offer_class):
    registry = Registry(builtin=[], entry_points=installed("example", plugin_of(hook)))
    entries = registry.entries(kind)
    assert registry.failures == ()
    assert entries
    for entry in entries:
        assert isinstance(entry.offer, offer_class)
        assert entry.offer.api == PLUGIN_API
        assert entry.refused == ()


@pytest.mark.parametrize(("kind", "hook", "offer_class"), HOOKS)
def test_an_example_writes_the_api_as_a_literal(kind, hook, offer_class):
    assert f"api={PLUGIN_API}" in example_of(hook)


def test_the_scheduler_of_the_example_reaches_the_picture():
    (offer,) = plugin_of("dit360_schedulers").dit360_schedulers()
    solver = offer.load(SchedulerSettings(shift=lambda sigma, tokens: sigma))
    sigmas = solver.sigmas(4, 100)
    assert sigmas == [1.0, 0.75, 0.5, 0.25, 0.0]
    x0, noise = 3.0, -1.0
    x = noise
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = solver.step(noise - x0, sigma, sigma_next, x, None)
    assert x == pytest.approx(x0)


def test_the_module_says_which_entry_point_makes_a_plugin():
    assert re.search(r'\[project\.entry-points\.dit360\]\n +\w+ = "\w+"', hookspecs.__doc__)
