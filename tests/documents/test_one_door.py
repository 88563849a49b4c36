"""Authors of plugins need ``dit360_core.plugins`` and nothing else of the core; those of families, two modules more.

Our own plugins, the examples, what ``dit360 new-plugin`` writes and what the documents show import nothing else of it;
tests that a plugin inherits are in ``dit360_core.testing``.
"""

import ast
import inspect
import json
import re
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from command_line import python
from dit360_core import plugins
from dit360_core.cli.scaffolding import plugin_project
from dit360_core.models import family, running
from dit360_core.plugins.entries import CORE
from dit360_core.plugins.hookspecs import KINDS, Dit360Spec
from dit360_core.plugins.registry import Registry

ROOT = Path(__file__).parents[2]
DOOR, KIT = "dit360_core.plugins", "dit360_core.testing"
OF_FAMILIES = (family, running)
"""For who brings a family of models; the second imports torch."""


def imported(source):
    """What Python's text imports, wherever in it: (module, name), and no name where all of a module is imported.

    ``import_module("…")`` and ``resources.files("…")`` count, too.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"dit360_core(\.\w+)*", str(node.value)):
            found.add((node.value, None))
    return found


def back_doors(source, *, kit):
    """What a text imports of the core that no plugin may, with ``kit`` beside its tests."""
    of_core = {(module, name) for module, name in imported(source) if module.split(".")[0] == "dit360_core"}
    allowed = {(module.__name__, name) for module in (plugins, *OF_FAMILIES) for name in module.__all__}
    return {each for each in of_core - allowed if not (kit and each[0] == KIT and each[1] is not None)}


def our_plugins():
    """The folders of our distributions that are plugins."""
    abouts = {path.parent: tomllib.loads(path.read_text("utf-8")) for path in ROOT.glob("dit360-*/pyproject.toml")}
    return [folder for folder, about in abouts.items() if "dit360" in about["project"].get("entry-points", {})]


def sources():
    """Everything that authors of plugins learn from: name → (text, whether it is a test)."""
    folders = [*our_plugins(), ROOT / "examples"]
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): (path.read_text("utf-8"), False) for path in paths}
    nobody = Registry(builtin=[], entry_points=[])
    for kind in KINDS:
        for path, text in plugin_project(kind, "mine", nobody).files.items():
            if path.endswith(".py"):
                found[f"new-plugin {kind}: {path}"] = (text, path.startswith("tests/"))
    for hook in (name for name in vars(Dit360Spec) if name.startswith("dit360_")):
        example = inspect.getdoc(getattr(Dit360Spec, hook)).partition("Example::\n")[2]
        found[f"example of {hook}"] = (textwrap.dedent(example), False)
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL), 1):
        found[f"docs/plugins.md, block {number}"] = (block, True)
    return found


SOURCES = sources()


def test_all_that_authors_learn_from_is_looked_at():
    offering = {point.dist.name for point in metadata.entry_points(group="dit360")} - {CORE}
    assert {folder.name for folder in our_plugins()} >= {name for name in offering if name.startswith("dit360-")}
    through = {name for name, (text, _) in SOURCES.items() if any(module == DOOR for module, _ in imported(text))}
    for part in (*(folder.name for folder in our_plugins()), *(path.name for path in ROOT.glob("examples/*-*"))):
        assert any(f"{part}/" in name for name in through), part
    for kind, (hook, _) in KINDS.items():
        assert any(name.startswith(f"new-plugin {kind}: src/") for name in through), kind
        assert f"example of {hook}" in through
    assert any(name.startswith("docs/plugins.md") for name in through)


@pytest.mark.parametrize("name", SOURCES)
def test_it_imports_what_is_promised_and_nothing_else_of_the_core(name):
    text, tests = SOURCES[name]
    assert back_doors(text, kit=tests) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import dit360_core",
        "import dit360_core.plugins.offers",
        "from dit360_core import load",
        "from dit360_core.errors import Reason",
        "from dit360_core.plugins import registry",
        "from dit360_core.plugins.offers import Model",
        "from dit360_core.testing import ModelConformance",
        "from dit360_core.models.engine import Engine",
        "from dit360_core.models.family import index",
        "def load():\n    from dit360_core.system.memory import room",
        "if TYPE_CHECKING:\n    from dit360_core.system.machine import Machine",
        "folder = resources.files('dit360_core') / 'models'",
    ],
)
def test_a_back_door_is_found(source):
    assert len(back_doors(source, kit=False)) == 1


def test_all_of_it_can_be_imported_without_torch_and_without_looking_for_plugins(tmp_path):
    """Also where torch is not installed. What it means is looked up by ``from … import *``, as Python does."""
    done = python(
        "import json, sys\n"
        "sys.modules['torch'] = None\n"
        "from dit360_core.plugins import *\n"
        "print(json.dumps([sorted(name for name in globals() if name[0] != '_'), sorted(sys.modules)]))",
        cwd=tmp_path,
        fresh=True,
    )
    assert done.returncode == 0, done.stderr
    names, modules = json.loads(done.stdout)
    assert set(names) - {"json", "sys"} == set(plugins.__all__)
    looking = {"registry", "choosing", "builtin", "guarding"}
    assert {name for name in modules if name.removeprefix(f"{DOOR}.") in looking} == set()
    assert {name.split(".")[0] for name in modules} & {"numpy", "diffusers", "transformers"} == set()


def test_what_a_family_says_of_itself_is_imported_without_torch(tmp_path):
    done = python(
        "import sys\nsys.modules['torch'] = None\nfrom dit360_core.models.family import *\n"
        "print('diffusers' in sys.modules, 'ModelFolder' in globals())",
        cwd=tmp_path,
        fresh=True,
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_the_embedded_model_is_what_the_core_calls_tiny():
    (tiny,) = Registry(entry_points=[]).find("model", "tiny")
    assert tiny.offer.base == plugins.EMBEDDED_MODEL
    assert (Path(plugins.EMBEDDED_MODEL) / "model_index.json").is_file()
