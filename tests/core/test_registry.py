"""Discovery: what is found does not depend on order, on duplicates, or on how badly another plugin behaves."""

import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from dit360_core.errors import UnknownName
from dit360_core.plugins.entries import CORE
from dit360_core.plugins.guarding import Arrivals
from dit360_core.plugins.hookspecs import KINDS, hookimpl
from dit360_core.plugins.offers import AttentionBackend, Scheduler
from dit360_core.plugins.registry import Registry
from invented_plugins import attention, installed, model, module, offering, quantizer, scheduler, tiling

BUILTIN = ["sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "eager"]


def names(registry, kind="attention"):
    return [entry.name for entry in registry.entries(kind)]


def only(registry):
    (failure,) = registry.failures
    return failure


# ------------------------------------------------------------------------------------------------- what is found, when


def test_plugins_are_not_looked_for_before_the_first_look():
    def search():
        raise LookupError("searched")
        yield

    registry = Registry(entry_points=search())
    with pytest.raises(LookupError, match="searched"):
        registry.entries("attention")


def test_the_core_offers_something_of_every_kind_through_the_hooks():
    registry = Registry(entry_points=[])
    assert names(registry) == BUILTIN
    for kind, (_, offer_class) in KINDS.items():
        entries = registry.entries(kind)
        assert entries
        assert all(e.distribution == CORE and not e.refused and isinstance(e.offer, offer_class) for e in entries)
    assert registry.failures == ()
    assert registry.disabled == ()


def test_the_order_of_entry_points_decides_nothing():
    plugins = [
        *installed("alpha", offering(attention("same", priority=3), quantizer("q"))),
        *installed("beta", offering(attention("same", priority=5), attention("b"))),
        *installed("gamma", "not_a_module"),
        *installed("delta", offering(attention("sdpa"), attention("d", api=7))),
    ]
    seen = []
    for order in itertools.permutations(plugins):
        registry = Registry(entry_points=order)
        seen.append(({kind: registry.entries(kind) for kind in KINDS}, registry.failures))
    assert all(one == seen[0] for one in seen)


def test_a_plugin_that_an_editable_install_lists_twice_is_there_once():
    twice = installed("twice", offering(attention("mine"))) * 2
    registry = Registry(builtin=[], entry_points=twice)
    assert names(registry) == ["mine"]
    assert registry.entries("attention")[0].refused == ()
    assert registry.failures == ()


def test_one_module_under_two_entry_points_is_used_once_and_told():
    mine = offering(attention("mine"))
    registry = Registry(builtin=[], entry_points=[*installed("one", mine), *installed("two", mine)])
    assert names(registry) == ["mine"]
    assert (only(registry).distribution, only(registry).stage) == ("two", "register")


def test_plugins_are_asked_once_even_by_many_threads_at_once():
    asked = []

    @hookimpl
    def dit360_attention_backends():
        asked.append(1)
        return [attention("mine")]

    registry = Registry(entry_points=installed("counting", module(dit360_attention_backends=dit360_attention_backends)))
    threads = [threading.Thread(target=registry.entries, args=("attention",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


# -------------------------------------------------------------------------------------- plugins that behave badly


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no repr")


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no str")


def hook(function):
    return hookimpl(specname="dit360_attention_backends")(function)


def raising(error):
    def raises():
        raise error

    return hook(raises)


def yielding_then_raising():
    yield attention("half")
    raise RuntimeError("after the first")


def endless_text():
    raise RuntimeError("first line\n\n    second line")


class Grumpy(ModuleType):
    def __getattr__(self, name):
        raise RuntimeError(f"do not look for {name}")


def grumpy():
    return Grumpy("grumpy")


class PluginObject:
    """Unhashable, as an instance of a dataclass is."""

    __hash__ = None

    def __eq__(self, other):
        raise ValueError("the truth value of an array is ambiguous")


MISBEHAVIOUR = {
    "module is missing": (lambda: "no_such_module", "import", "ModuleNotFoundError"),
    "hook is unmarked": (lambda: module(dit360_attention_backends=list), "register", "@hookimpl"),
    "module is empty": (lambda: module(), "register", "@hookimpl"),
    "module raises for every attribute": (grumpy, "register", ""),
    "hook takes an argument": (lambda: module(h=hook(lambda device: [])), "register", "device"),
    "hook raises": (lambda: module(h=raising(RuntimeError("boom"))), "describe", "RuntimeError: boom"),
    "hook exits": (lambda: module(h=raising(SystemExit(3))), "describe", "SystemExit: 3"),
    "error cannot be printed": (lambda: module(h=raising(UnprintableError())), "describe", "UnprintableError"),
    "error has many lines": (lambda: module(h=hook(endless_text)), "describe", "first line second line"),
    "hook returns None": (lambda: module(h=hook(lambda: None)), "describe", "returned None"),
    "hook returns a number": (lambda: module(h=hook(lambda: 42)), "describe", "int"),
    "hook returns one offer, bare": (lambda: module(h=hook(lambda: attention("bare"))), "describe", "iterable"),
    "hook returns text in a list": (lambda: module(h=hook(lambda: ["sdpa"])), "describe", "'sdpa', which is no Attent"),
    "hook returns another kind": (lambda: module(h=hook(lambda: [quantizer("q")])), "describe", "Quantizer"),
    "hook returns the class": (lambda: module(h=hook(lambda: [AttentionBackend])), "describe", "which is no"),
    "value cannot be printed": (lambda: module(h=hook(lambda: [Unprintable()])), "describe", "Unprintable"),
    "offer has a bad name": (lambda: module(h=hook(lambda: [attention("Has Spaces")])), "describe", "ValueError"),
    "offer has no api": (lambda: module(h=hook(lambda: [AttentionBackend(name="x", load=list)])), "describe", "api"),
    "offer has a number for a requirement": (
        lambda: module(h=hook(lambda: [attention("x", requires=(3,))])),
        "describe",
        "TypeError",
    ),
}


@pytest.mark.parametrize(("plugin", "stage", "said"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_plugin_that_misbehaves_is_told_and_touches_no_other(plugin, stage, said):
    registry = Registry(
        entry_points=[
            *installed("before", offering(attention("first"))),
            *installed("broken", plugin(), version="6.6.6"),
            *installed("later", offering(attention("last"))),
        ]
    )
    assert names(registry) == [*BUILTIN, "first", "last"]
    failure = only(registry)
    assert (failure.distribution, failure.version, failure.entry_point) == ("broken", "6.6.6", "broken")
    assert failure.stage == stage
    assert said in failure.error
    assert str(failure).startswith("broken 6.6.6 (broken) cannot ")
    assert "\n" not in str(failure)


@pytest.mark.parametrize("plugin", [{}, [], None, 3, PluginObject()], ids=["dict", "list", "None", "int", "unhashable"])
def test_an_entry_point_that_names_no_module_is_told_and_touches_no_other(plugin):
    broken = installed("broken", plugin)
    registry = Registry(entry_points=[*broken, *installed("later", offering(attention("last")))])
    assert names(registry) == [*BUILTIN, "last"]
    assert only(registry).stage == "register"


def test_a_plugin_may_be_an_object_that_cannot_be_hashed():
    class Plugin:
        __hash__ = None

        @hookimpl
        def dit360_attention_backends(self):
            return [attention("mine")]

    plugins = [*installed("object", Plugin()), *installed("later", offering(attention("last")))]
    registry = Registry(builtin=[], entry_points=plugins)
    assert sorted(names(registry)) == ["last", "mine"]
    assert registry.failures == ()


def test_what_is_right_in_a_plugin_is_used_although_something_else_is_wrong():
    mixed = module(
        dit360_attention_backends=hookimpl(lambda: ["rubbish", attention("kept"), None]),
        dit360_models=hookimpl(lambda: [model("mars")]),
        dit360_tilings=raising(RuntimeError("boom")),
    )
    mixed.dit360_tilings = hookimpl(specname="dit360_tilings")(lambda: 1 / 0)
    registry = Registry(builtin=[], entry_points=installed("mixed", mixed))
    assert names(registry) == ["kept"]
    assert names(registry, "model") == ["mars"]
    assert [f.stage for f in registry.failures] == ["describe"] * 3


def test_a_misspelled_hook_is_told_with_the_right_one_and_the_others_are_used():
    typo = module(
        dit360_scheduler=hookimpl(lambda: [scheduler("lost")]),
        dit360_models=hookimpl(lambda: [model("mars")]),
    )
    registry = Registry(builtin=[], entry_points=installed("typo", typo))
    assert names(registry, "model") == ["mars"]
    assert "did you mean dit360_schedulers?" in only(registry).error


def test_a_hook_of_a_newer_core_may_be_marked_optional():
    @hookimpl(optionalhook=True)
    def dit360_upscalers():
        raise AssertionError("asked by a core that knows nothing of it")

    newer = module(dit360_upscalers=dit360_upscalers, dit360_models=hookimpl(lambda: [model("mars")]))
    registry = Registry(builtin=[], entry_points=installed("newer", newer))
    assert names(registry, "model") == ["mars"]
    assert registry.failures == ()


def test_a_plugin_that_looks_at_the_registry_while_it_is_asked_is_told_and_does_not_hang():
    @hookimpl
    def dit360_attention_backends():
        return registry.entries("attention")

    registry = Registry(entry_points=installed("curious", module(dit360_attention_backends=dit360_attention_backends)))
    assert names(registry) == BUILTIN
    assert "must not look at the registry" in only(registry).error


@pytest.mark.parametrize("about", [None, "", "Metadata-Version: 2.1\n"])
def test_a_distribution_without_metadata_does_not_stop_the_others(about):
    leftover = installed("leftover", offering(attention("ghost")), about=about)
    registry = Registry(builtin=[], entry_points=[*installed("good", offering(attention("mine"))), *leftover])
    assert sorted(names(registry)) == ["ghost", "mine"]
    assert registry.find("attention", "ghost")[0].distribution == "unknown"


def test_an_entry_point_without_a_distribution_is_used():
    (found,) = installed("any", offering(attention("mine")))
    alone = metadata.EntryPoint(name=found.name, value=found.value, group=found.group)
    (entry,) = Registry(builtin=[], entry_points=[alone]).entries("attention")
    assert entry.address == "unknown:mine"


def test_an_interrupt_is_not_taken_for_a_plugins_failure():
    registry = Registry(entry_points=installed("slow", module(h=raising(KeyboardInterrupt()))))
    with pytest.raises(KeyboardInterrupt):
        registry.entries("attention")


def test_all_failures_are_one_warning_and_each_is_a_line_of_the_verbose_log(caplog):
    caplog.set_level(logging.INFO, "dit360")
    broken = [
        *installed("one", module(h=hook(lambda: ["a", "b"]))),
        *installed("two", "no_such_module", version="2.0"),
        *installed("good", offering(attention("mine"))),
    ]
    registry = Registry(entry_points=broken)
    names(registry)
    names(registry, "model")
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == ["Plugins that failed: one 1.0, two 2.0; 'dit360 backends' tells why."]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.INFO] == [str(f) for f in registry.failures]


def test_strict_plugins_raises_the_plugins_own_error_each_time_and_counts_nothing_twice(monkeypatch):
    monkeypatch.setenv("DIT360_STRICT_PLUGINS", "1")
    monkeypatch.setenv("DIT360_DISABLED_PLUGINS", "off")
    broken = installed("broken", module(h=raising(ZeroDivisionError("boom"))))
    registry = Registry(entry_points=[*broken, *installed("off", "no_such_module")])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="boom"):
            registry.entries("attention")
    monkeypatch.delenv("DIT360_STRICT_PLUGINS")
    assert only(registry).distribution == "broken"
    assert registry.disabled == ("off:off",)


def test_strict_plugins_makes_an_error_of_a_plugin_that_exits(monkeypatch):
    monkeypatch.setenv("DIT360_STRICT_PLUGINS", "1")
    registry = Registry(entry_points=installed("exits", module(h=raising(SystemExit(0)))))
    with pytest.raises(RuntimeError, match=re.escape("exits 1.0 (exits) cannot describe its offers: SystemExit: 0")):
        registry.entries("attention")


@pytest.mark.parametrize("asked", ["off-switch", "OFF_Switch", "entry", "off.switch:entry", " nobody , off-switch ,"])
def test_a_disabled_plugin_is_told_and_not_even_imported(monkeypatch, asked):
    monkeypatch.setenv("DIT360_DISABLED_PLUGINS", asked)
    off = installed("Off_Switch", "no_such_module", name="entry")
    registry = Registry(entry_points=[*off, *installed("good", offering(attention("mine")))])
    assert registry.disabled == ("off-switch:entry",)
    assert registry.failures == ()
    assert "mine" in names(registry)


# --------------------------------------------------------------------------------------------------- clashes of names


def test_a_name_of_the_core_stays_the_cores():
    registry = Registry(entry_points=installed("thief", offering(attention("sdpa", priority=99))))
    core, thief = registry.find("attention", "sdpa")
    assert (core.distribution, core.refused) == (CORE, ())
    (reason,) = thief.refused
    assert reason.code == "clash"
    assert "belongs to dit360-core" in reason.sentence


def test_two_plugins_with_one_name_are_both_refused_each_naming_the_other():
    registry = Registry(
        entry_points=[
            *installed("left", offering(attention("same")), version="1.1"),
            *installed("right", offering(attention("same")), version="2.2"),
        ]
    )
    left, right = registry.find("attention", "same")
    assert "right 2.2" in left.refused[0].sentence
    assert "left 1.1" in right.refused[0].sentence
    assert "'left:same'" in left.refused[0].hint
    assert registry.find("attention", "left:same") == (left,)


def test_one_name_may_be_offered_in_two_kinds():
    registry = Registry(builtin=[], entry_points=installed("both", offering(attention("same"), quantizer("same"))))
    assert all(not registry.find(kind, "same")[0].refused for kind in ("attention", "quantization"))


def test_a_plugin_that_offers_a_name_twice_is_refused_for_that():
    registry = Registry(entry_points=installed("double", offering(tiling("x"), tiling("x"))))
    for entry in registry.find("tiling", "x"):
        assert "double offers the name 'x' twice" in entry.refused[0].sentence


@pytest.mark.parametrize(
    ("api", "hint"), [(99, "upgrade dit360-core"), (0, "upgrade the plugin"), ("1", "upgrade the plugin")]
)
def test_an_offer_for_another_api_is_refused_with_what_to_upgrade(api, hint):
    registry = Registry(entry_points=installed("other", offering(attention("other", api=api))))
    (reason,) = registry.find("attention", "other")[0].refused
    assert (reason.code, reason.hint) == ("api", hint)
    assert repr(api) in reason.sentence


# -------------------------------------------------------------------------------------------------------- by its name


def test_names_are_found_in_any_case_and_distributions_in_any_spelling():
    registry = Registry(entry_points=installed("My_Attention.Kit", offering(attention("mine"))))
    (entry,) = registry.find("attention", "mine")
    assert entry.address == "my-attention-kit:mine"
    for asked in ("MINE", "my-attention-kit:mine", "My_Attention.Kit:Mine", "my_attention_kit:mine"):
        assert registry.find("attention", asked) == (entry,)


@pytest.mark.parametrize(
    ("asked", "near"), [("spda", "sdpa"), ("SDP", "sdpa"), ("eagre", "eager"), ("left:sam", "left:same")]
)
def test_an_unknown_name_is_told_with_the_nearest_ones(asked, near):
    registry = Registry(
        entry_points=[*installed("left", offering(attention("same"))), *installed("right", offering(attention("same")))]
    )
    with pytest.raises(UnknownName, match=rf"no attention backend named '{asked}'; did you mean .*{near}.*\?"):
        registry.find("attention", asked)


def test_an_unknown_name_that_is_near_to_nothing_is_told_with_all_names():
    with pytest.raises(UnknownName, match=re.escape(f"there are: {', '.join(sorted(BUILTIN))}.")):
        Registry(entry_points=[]).find("attention", "qqqqqqqqqq")


def test_an_unknown_name_is_told_with_the_plugins_that_failed_which_may_have_had_it():
    registry = Registry(entry_points=installed("lost-kernels", "no_such_module", version="3.1"))
    with pytest.raises(UnknownName, match=re.escape("These plugins failed: lost-kernels 3.1.")):
        registry.find("attention", "lost")


def test_one_requirement_without_its_comma_is_still_one_requirement():
    assert attention("x", requires="xformers>=0.0.30").requires == ("xformers>=0.0.30",)
    assert Scheduler(name="x", api=1, load=list, honours="scheduler_eta").honours == {"scheduler_eta"}


class Panic(BaseException):
    """As pyo3's PanicException, of any library in Rust."""


class Ranked(AttentionBackend):
    @property
    def rank(self):
        raise RuntimeError("no rank")


def endless():
    for number in itertools.count():
        yield attention(f"n{number}")


@pytest.mark.parametrize(
    ("implementation", "kept", "told"),
    [
        (yielding_then_raising, 1, "after the first"),
        (endless, 1000, "it offers more than 1000"),
        (lambda: [attention("good"), Ranked(name="bad", api=1, load=list)], 1, "no rank"),
    ],
    ids=["raises after an offer", "never stops", "rank raises"],
)
def test_what_a_hook_offered_before_it_failed_is_used(implementation, kept, told):
    registry = Registry(builtin=[], entry_points=installed("half", module(h=hook(implementation))))
    assert len(names(registry)) == kept
    assert told in only(registry).error


@pytest.mark.parametrize("error", [Panic("called `Option::unwrap()` on a `None` value"), GeneratorExit()])
def test_what_is_no_exception_of_pythons_own_kind_is_a_plugins_failure_as_well(error):
    broken = installed("rusty", module(h=raising(error)))
    registry = Registry(entry_points=[*broken, *installed("later", offering(attention("last")))])
    assert names(registry) == [*BUILTIN, "last"]
    assert type(error).__name__ in only(registry).error


def test_a_plugin_that_changes_folder_or_signals_changes_nothing_for_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    before = signal.getsignal(signal.SIGINT)

    def moves():
        os.chdir("elsewhere")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return [attention("mine")]

    registry = Registry(builtin=[], entry_points=installed("mover", module(h=hook(moves))))
    assert names(registry) == ["mine"]
    assert Path.cwd() == tmp_path
    assert signal.getsignal(signal.SIGINT) is before


ENDS = """
from pathlib import Path
import sys
from dit360_core.plugins.guarding import Arrivals
with Arrivals(Path(sys.argv[1])).noted(["bad:plugin"]) as note:
    note("bad:plugin")
    import os
    os._exit(0)
"""


def test_the_next_start_tells_of_a_plugin_whose_import_ended_the_one_before(tmp_path):
    subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)], check=True)
    living = Arrivals(tmp_path)
    with living.noted(["good:plugin"]) as note:
        note("good:plugin")
        assert Arrivals(tmp_path).ended() == ["bad:plugin"], "one that is alive is not told"
        assert Arrivals(tmp_path).ended() == [], "nor one twice"
    assert list(tmp_path.iterdir()) == []
