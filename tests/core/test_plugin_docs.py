"""``docs/plugins.md`` says of hooks, offers and what they load exactly what the code says."""

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import attrs
import pytest
from dit360_core import plugins, testing
from dit360_core.plugins import PLUGIN_API, REASON_CODES, hookspecs, offers
from dit360_core.plugins.hookspecs import KINDS, Dit360Spec

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


DECLARED = [node for block in blocks("pyi") for node in ast.parse(block).body]
DOCUMENTED = {node.name: node for node in DECLARED if isinstance(node, ast.ClassDef)}

CODE = {name: getattr(plugins, name) for name in plugins.__all__ if inspect.isclass(getattr(plugins, name))}
VALUES = {name: cls for name, cls in CODE.items() if attrs.has(cls)}
ERRORS = {name: cls for name, cls in CODE.items() if issubclass(cls, Exception)}
PROTOCOLS = {name: cls for name, cls in CODE.items() if getattr(cls, "_is_protocol", False)}


def signature(function):
    """Arguments and result of a function, without ``self``, as text."""
    arguments = ast.unparse(function.args).removeprefix("self").removeprefix(", ")
    return f"({arguments}) -> {ast.unparse(function.returns)}"


def methods(cls):
    """The signatures of the methods that a class itself declares."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    return {item.name: signature(item) for item in node.body if isinstance(item, ast.FunctionDef)}


def same_code(text):
    return ast.unparse(ast.parse(text))


def test_every_hook_is_documented_with_its_signature():
    documented = {node.name: signature(node) for node in DECLARED if isinstance(node, ast.FunctionDef)}
    assert documented == methods(Dit360Spec)
    assert set(documented) == {hook for hook, _ in KINDS.values()}


def test_every_class_of_the_contract_is_documented_and_no_other():
    assert set(DOCUMENTED) == set(VALUES) | set(PROTOCOLS) == set(CODE) - set(ERRORS)


def test_every_error_that_a_plugin_may_raise_is_documented():
    (row,) = re.findall(r"^\| (`\w+Error`.*?) \|", PAGE, re.MULTILINE)
    assert re.findall(r"\w+", row) == sorted(ERRORS)


def test_every_class_of_the_offers_can_be_had_from_dit360_core_plugins():
    own = {name for name, cls in inspect.getmembers(offers, inspect.isclass) if cls.__module__ == offers.__name__}
    assert own - set(CODE) == set()


@pytest.mark.parametrize("name", [name for name in plugins.__all__ if name not in CODE])
def test_what_is_no_class_is_documented_with_its_arguments(name):
    (shown,) = re.findall(rf"^\| `{name}(\(.*?\))?` \|", PAGE, re.MULTILINE)
    value = getattr(plugins, name)
    taken = f"({', '.join(inspect.signature(value).parameters)})" if inspect.isfunction(value) else ""
    assert shown == taken


@pytest.mark.parametrize("name", VALUES)
def test_the_fields_of_a_value_are_documented_with_their_types_and_defaults(name):
    cls, node = VALUES[name], DOCUMENTED[name]
    above = [base for base in cls.__mro__[1:] if attrs.has(base)]
    assert [ast.unparse(base) for base in node.bases] == [base.__name__ for base in above]
    inherited = {field.name for base in above for field in attrs.fields(base)}
    fields = [field for field in attrs.fields(cls) if field.name not in inherited]
    assert [item.target.id for item in node.body] == [field.name for field in fields]
    for item, field in zip(node.body, fields, strict=True):
        assert ast.unparse(item.annotation) == same_code(str(field.type)), field.name
        if field.default is attrs.NOTHING:
            assert item.value is None, field.name
        elif callable(field.default) or isinstance(field.default, attrs.Factory):
            assert ast.unparse(item.value) == "...", field.name
        else:
            assert item.value is not None, field.name
            assert eval(ast.unparse(item.value)) == field.default, field.name


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_methods_of_what_an_offer_loads_are_documented_with_their_signatures(name):
    assert {item.name: signature(item) for item in DOCUMENTED[name].body} == methods(PROTOCOLS[name])


def test_what_else_an_implementation_may_have_is_documented_as_in_the_code():
    more = re.findall(r"^\* `(\w+\(.*?\) -> [^`]+)`", PAGE, re.MULTILINE)
    assert len(more) == 6
    source = " ".join(inspect.getsource(offers).split())
    for declared in more:
        assert declared in source


def test_every_code_of_a_reason_is_documented():
    (table,) = re.findall(r"^\| code \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == REASON_CODES


@pytest.mark.parametrize("name", testing.__all__)
def test_a_conformance_class_is_documented_with_all_that_can_be_said_to_it(name):
    (paragraph,) = re.findall(rf"^`{name}` .*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    kits = [kit for kit in getattr(testing, name).__mro__ if kit.__module__.startswith("dit360_core.testing.families.")]
    own = {
        key
        for kit in (getattr(testing, name), *kits)
        for key, value in vars(kit).items()
        if not key.startswith(("_", "test_")) and not (name != "OfferConformance" and key == "kind")
    }
    common = {"module", "offer"}  # in the example
    assert {key for key in own - common if f"`{key}`" not in paragraph} == set()


def test_the_api_and_the_requirement_are_todays():
    assert f"`PLUGIN_API` is {PLUGIN_API}." in PAGE
    assert f"api={PLUGIN_API}," in PAGE


def test_the_examples_run_with_a_plugin_of_that_name(monkeypatch):
    """The page's Python, one block after the other: the first is the plugin that the others try."""
    plugin = ModuleType("my_plugin")
    monkeypatch.setitem(sys.modules, "my_plugin", plugin)
    for block in blocks("python"):
        exec(compile(block, "docs/plugins.md", "exec"), vars(plugin))
    tried = plugin.TestMine()
    assert tried.offer().name == "mine"
    tried.test_the_offer_is_frozen_and_of_this_api()
    tried.test_unsupported_answers_for_any_machine_and_allocates_nothing()
    assert issubclass(plugin.TestMyTiling, testing.OfferConformance)


def test_the_shown_entry_point_is_the_hookspecs():
    (toml,) = blocks("toml")
    entry = toml[toml.index("[project.entry-points") : toml.index("[tool.")].strip()
    assert textwrap.indent(entry, " " * 4) in hookspecs.__doc__
