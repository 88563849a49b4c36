"""Many pictures in one process, each with other options: nothing of them stays."""

import json
import sys
from pathlib import Path

import pytest
from command_line import python

from bench.soak import LIMITS, grown, growth

ROOT = Path(__file__).parents[2]
RUN = "import sys; sys.argv[0] = 'soak'; import typer; from bench.soak import main; typer.run(main)"


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what the C library gives back, as Linux does")
def test_after_eighteen_generations_with_changing_options_nothing_has_grown(tmp_path):
    arguments = ["--generations", "18", "--of-one-model", "9", "--output", str(tmp_path / "soak.json")]
    code = f"import sys; sys.argv[1:] = {arguments!r}; {RUN}"
    done = python(code, cwd=tmp_path, PYTHONPATH=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads((tmp_path / "soak.json").read_text())
    assert len(report["pictures"]) == 18
    assert len({picture["way"] for picture in report["pictures"]}) == 9


FLAT = {"rss": 600 * 2**20, "storage": 0, "tensors": 0, "files": 6, "threads": 3, "objects": 1000}


def report(**changes):
    """Of a soak in which nothing grows, but for what is changed in the second half."""
    pictures = [{**FLAT, "way": "text", "loading": {}} for _ in range(24)]
    between = [dict(FLAT) for _ in range(5)]
    for name, by in changes.items():
        of, count = {"per_model": (pictures, "storage"), "rss": (pictures, "rss")}.get(name, (between, name))
        for one in of[len(of) // 2 + 1 :]:
            one[count] = one.get(count, 0) + by
    return {"first": changes.get("first", 0), "pictures": pictures, "between": between}


@pytest.mark.parametrize("name", LIMITS)
def test_the_soak_finds_each_thing_that_grows(name):
    unit = FLAT["objects"] if name == "objects" else 1
    assert grown(growth(report(**{name: LIMITS[name] * unit / 2}))) == []
    (complaint,) = grown(growth(report(**{name: LIMITS[name] * unit * 2 + 1})))
    assert complaint.startswith(f"{name} grew by ")
