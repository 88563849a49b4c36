"""The table of faults names tests that are there, and every test of faults stands in it."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows():
    """The rows of all tables: their cells."""
    cells = [
        [c.strip() for c in line.strip("|").split(" | ")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells if row[0] != "fault injected" and not set(row[0]) <= set("-|")]


@functools.cache
def names_in(path):
    """The names of a file's test functions."""
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_tells_fault_words_and_a_test_that_is_there():
    found = rows()
    assert len(found) > 50
    for row in found:
        assert len(row) == 3, row
        named = NAMED.findall(row[2])
        assert named, row
        for file, name in named:
            assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_every_test_of_a_fault_is_in_the_table():
    named = set(NAMED.findall(PAGE.read_text("utf-8")))
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        file = path.relative_to(ROOT).as_posix()
        missing = {name for name in names_in(path) if (file, name) not in named}
        assert not missing, f"{file}: {', '.join(sorted(missing))}"
