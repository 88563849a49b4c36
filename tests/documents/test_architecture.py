"""docs/architecture.md names the rooms and files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "dit360-core" / "src" / "dit360_core"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w./-]+/?[\w-]*\.(?:py|md|toml))`")


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def rows(title):
    return [line for line in section(title).splitlines() if line.startswith("| ") and not line.startswith("| …")]


def there(name):
    return (CORE / name).exists() or (ROOT / name).exists()


def test_the_page_begins_with_the_house_the_way_of_the_data_and_what_to_touch():
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE)[:3] == ["The house", "The way of the data", "To add …"]


def test_every_room_is_in_the_house_and_no_other():
    named = {re.match(r"\| `([\w/]+)` \|", row)[1] for row in rows("The house") if row.startswith("| `")}
    packages = {path.parent.relative_to(CORE).as_posix() for path in CORE.glob("*/__init__.py")}
    modules = {path.stem for path in CORE.glob("*.py")} - {"__init__"}
    inside = {path.parent.relative_to(CORE).as_posix() for path in CORE.glob("models/*/__init__.py")}
    assert named == packages | modules | inside


@pytest.mark.parametrize("subject", ["control", "link", "backend", "kind", "family"])
def test_the_table_tells_what_to_touch_for(subject):
    assert any(re.match(rf"\| an? {subject}\b", row) for row in rows("To add …"))


@pytest.mark.parametrize("row", rows("To add …")[1:])
def test_the_files_to_touch_are_there(row):
    named = FILE.findall(row)
    assert named or "distribution" in row
    assert not [name for name in named if not there(name)]


def test_every_file_that_the_page_names_is_there():
    named = set(FILE.findall(PAGE)) - {"version.py"}
    assert len(named) > 40
    assert not [name for name in sorted(named) if not there(name)]


@pytest.mark.parametrize("change", ["A new control", "A new backend", "A new family of models"])
def test_a_first_change_names_files_that_are_there(change):
    told = CONTRIBUTING.split("## Your first change")[1].split(f"**{change}**")[1].partition("\n**")[0]
    named = re.findall(r"`((?:dit360-|tests/)[\w./-]+|CHANGELOG\.md)`", told.partition("## Releases")[0])
    assert len(named) >= 3
    assert not [name for name in named if not (ROOT / name).exists()]
