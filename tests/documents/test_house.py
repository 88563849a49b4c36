"""The house of dit360_core: no circle among its modules, few doors at its front, and a reason for what is put off.

That each room imports only what lies below it is import-linter's to say (``make lint``).
"""

import ast
from pathlib import Path

import dit360_core
import pytest
from module_imports import Package

HOUSE = Path(dit360_core.__file__).parent
TEMPLATES = ("cli/templates",)

SLOW = {"accelerate", "diffusers", "huggingface_hub", "py360convert", "ray", "rich", "torch", "transformers"}
"""Libraries that take as long to import as all that ``dit360 --help`` does, or much longer."""
NOT_EVERYWHERE = {"fcntl", "pynvml", "resource"}
"""Modules that are not there on every platform."""
MOST = 125
"""Imports inside functions are fewer."""


def put_off(package):
    """``file:line module`` of the imports inside functions."""
    return {
        f"{name}:{one.line} {one.module}": (name, one)
        for name, imports in package.imports.items()
        for one in imports
        if one.inside and not one.types
    }


def without_a_reason(package):
    """Of these, those that are neither slow nor missing somewhere, nor a command's work, and of which nothing is said.

    Slow is also a module of the package itself, if importing it imports what is.
    """
    root = next(iter(package.files)).split(".")[0]
    found = []
    for told, (name, one) in put_off(package).items():
        libraries = {module.split(".")[0] for module in package.brought_in(one.module)}
        work = name.startswith(f"{root}.cli.") and one.module.startswith(f"{root}.cli.work.")
        if not (libraries & (SLOW | NOT_EVERYWHERE) or work or one.said):
            found.append(told)
    return found


@pytest.fixture(scope="module")
def house():
    return Package(HOUSE, leave_out=TEMPLATES)


def test_no_modules_import_each_other(house):
    assert len(house.files) > 200
    assert house.circles() == []


def test_the_front_has_few_doors():
    entries = {path.name for path in HOUSE.iterdir()} - {"py.typed", "__pycache__"}
    assert len(entries) <= 14, sorted(entries)


def test_each_room_says_in_one_sentence_what_it_is_for():
    rooms = [file for file in HOUSE.rglob("__init__.py") if not file.is_relative_to(HOUSE / TEMPLATES[0])]
    assert len(rooms) > 15
    for room in rooms:
        first, _, rest = (ast.get_docstring(ast.parse(room.read_text("utf-8"))) or "").partition("\n")
        assert first.endswith("."), room
        assert ". " not in first, room
        assert not rest or rest.startswith("\n"), room


def test_few_imports_wait_inside_functions(house):
    assert 0 < len(put_off(house)) < MOST


def test_each_import_inside_a_function_is_there_for_a_reason(house):
    assert without_a_reason(house) == []


def test_what_is_slow_is_not_imported_at_the_front(house):
    """The command line's ``--help``, ``import dit360_core``, ``dit360 backends``, and loading up to where files are
    checked: by the text alone. tests/core/test_cli_bad_input.py runs them."""
    libraries = {"torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "numpy", "PIL"}
    for module in ("dit360_core", "dit360_core.cli", "dit360_core.cli.work.registered", "dit360_core.plugins"):
        assert not libraries & {name.split(".")[0] for name in house.brought_in(module)}, module
    for module in ("generate", "plan", "quantize", "batch", "bench", "export"):
        found = {name.split(".")[0] for name in house.brought_in(f"dit360_core.cli.work.{module}")}
        assert not found & {"torch", "diffusers", "transformers", "accelerate"}, module


# ----------------------------------------------------------------------------------------------- what would be found


def made_up(folder, **files):
    """A package of modules with these texts; ``__`` in a name stands for a folder."""
    for name, text in files.items():
        file = folder / "house" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    return Package(folder / "house")


def test_a_circle_is_found_also_through_functions_and_types(tmp_path):
    package = made_up(
        tmp_path,
        a="from house import b",
        b="def work():\n    import house.room.c",
        room__c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.room.d import D",
        room__d="import torch\nfrom house.a import A",
        e="from house import a",
        f="import house.e, house.a",
    )
    assert package.circles() == [["house.a", "house.b", "house.room.c", "house.room.d"]]


def test_of_two_circles_both_are_found_and_of_a_line_none(tmp_path):
    package = made_up(
        tmp_path, a="import house.b", b="import house.a, house.c", c="import house.d", d="import house.c", e="import re"
    )
    assert sorted(package.circles()) == [["house.a", "house.b"], ["house.c", "house.d"]]
    assert made_up(tmp_path / "line", a="import house.b", b="import house.c", c="").circles() == []


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("import torch", "slow"),
        ("from torch.nn import functional", "slow"),
        ("import fcntl", "not everywhere"),
        ("from house import slow", "slow through another"),
        ("from house.slow import anything", "slow through another"),
        ("from house.room import inner", "slow through the room that it is in"),
        ("import json  # it is large", "said"),
        ("# It is large.\n    import json\n    from house import light", "said of both"),
        ("import json", None),
        ("from house import light", None),
        ("from house.light import anything", None),
        ("# It is large.\n    x = 1\n    import json", None),
        ("import json\n    # too late", None),
    ],
)
def test_an_import_that_waits_for_nothing_is_found(tmp_path, inside, why):
    package = made_up(
        tmp_path,
        a=f"def work():\n    {inside}\n",
        slow="import house.slower",
        slower="from torch import nn",
        light="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n",
        room__inner="",
    )
    (tmp_path / "house" / "room" / "__init__.py").write_text("import rich")
    package = Package(tmp_path / "house")
    assert (without_a_reason(package) == []) is (why is not None)
