"""bench/full_size.py, which has one try on a GPU: every part runs here at small shapes, and nothing that it measured is
lost by what fails, hangs or dies."""

import importlib
import json
import os
import time
from pathlib import Path

import attrs
import pytest
from command_line import HANGING
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.planning.forecast import subject_of
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux here")
ASKED = {"device": "cpu", "precision": "fp32", "small": True, "width": 128, "rounds": 1, "patience": 0.0}

INVENTED = """
import os, time


def rows(asked, work, *names):
    for name in names:
        if not work.is_left(name):
            continue
        if name == "dies":
            os._exit(7)
        if name == "hangs":
            time.sleep(3600)
        right = {"seconds": float("nan"), "pid": os.getpid()}
        work.tell(name, {"failed": "it is broken"} if name == "fails" else right)


def before(asked, work):
    raise RuntimeError("no such library")
"""


@pytest.fixture
def full_size(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import full_size

    return full_size


@pytest.fixture
def measure(full_size, monkeypatch, tmp_path):
    """Runs invented parts, each a function with its arguments, and gives the file's last run."""
    (tmp_path / "invented_parts.py").write_text(INVENTED)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(asked, *, limits=(), seconds=HANGING):
        parts = {
            name: full_size.Part("invented_parts", function, tuple(arguments), dict(limits).get(name, HANGING))
            for name, (function, *arguments) in asked.items()
        }
        output = tmp_path / "found.json"
        before = json.loads(output.read_text())["runs"] if output.exists() else []
        full_size.measure(parts, ASKED, before, output, time.monotonic() + seconds)
        runs = json.loads(output.read_text())["runs"]
        assert len(runs) == len(before) + 1
        return runs[-1], (tmp_path / "found.md").read_text()

    return run


def told(run):
    return {(row["part"], row["what"]): row.get("failed", "measured") for row in run["rows"]}


def states(run):
    return {name: part["state"] for name, part in run["parts"].items()}


def test_what_fails_or_dies_takes_nothing_with_it_and_a_second_run_does_only_what_is_left(measure):
    asked = {"good": ("rows", "a", "b"), "bad": ("rows", "c", "dies", "fails", "d"), "broken": ("before",)}
    run, page = measure(asked)
    assert states(run) == {"good": "done", "bad": "failed", "broken": "failed"}
    found = told(run)
    assert found["bad", "dies"] == "the process ended with the code 7"
    assert found["bad", "fails"] == "it is broken"
    assert found["broken", "broken"].endswith("RuntimeError: no such library")
    assert [what for (_, what), said in found.items() if said == "measured"] == ["a", "b", "c", "d"]
    pids = {row["what"]: row["pid"] for row in run["rows"] if "pid" in row}
    assert pids["a"] == pids["b"]
    assert len({pids["a"], pids["c"], pids["d"], os.getpid()}) == 4
    assert "Left: bad (failed), broken (failed)." in page
    asked = {**asked, "bad": ("rows", "c", "fails", "d"), "new": ("rows", "e"), "broken": ("rows", "f")}
    run, page = measure(asked)
    # First what was never tried.
    assert list(told(run)) == [("new", "e"), ("bad", "fails"), ("broken", "f")]
    assert "good" not in run["parts"]
    assert "| good | a | nan s |" in page


def test_what_hangs_is_ended_in_its_time_and_what_no_time_is_left_for_is_told(measure):
    asked = {"slow": ("rows", "a", "hangs", "b"), "next": ("rows", "c")}
    run, page = measure(asked, limits={"slow": 3.0})
    assert states(run) == {"slow": "overran", "next": "done"}
    *before, (_, at) = [row for row in told(run).items() if row[0][0] == "slow"]
    assert at == "took more than 3 s"
    # On a machine that is busy enough not even the first was reached.
    assert before in ([], [(("slow", "a"), "measured")])
    assert told(run)["next", "c"] == "measured"
    run, page = measure({"next": ("rows", "c"), "late": ("rows", "d"), "slow": ("rows", "b")}, seconds=0.0)
    assert states(run) == {"late": "no time", "slow": "no time"}
    assert not run["rows"]
    assert "Left: late (no time), slow (overran)." in page


# Each function once; a compiler takes half a minute, and so does planning for FLUX itself.
SHORTER = {
    "kernels": (("fp32",),),
    "steps": (),
    "quantized": (),
    "preset": (8, 32),
    "decode": ((512,),),
    "official": ("fp32",),
    "fused": (),
    "offloaded": ("group",),
}
ELSEWHERE = {"compiled", "on_gpu"}


def test_every_part_is_a_function_that_is_there_and_is_tried_below(full_size):
    for part in full_size.PARTS.values():
        assert callable(getattr(importlib.import_module(part.module), part.function))
    assert {part.function for part in full_size.PARTS.values()} == set(SHORTER) | ELSEWHERE


@pytest.mark.long
@pytest.mark.parametrize("function", SHORTER)
def test_every_part_measures_all_its_rows_at_small_shapes(full_size, function, tmp_path, monkeypatch):
    module = next(part.module for part in full_size.PARTS.values() if part.function == function)
    if function == "preset":
        card = Machine(device="cuda", device_name="a card", capability=(8, 6), fast_bfloat16=True)
        asked = LoadOptions(model="tiny", device="cuda", vram="24")
        known = subject_of(asked, SampleOptions(prompt="any"), DecodeOptions(), default_registry(), card)
        monkeypatch.setattr(importlib.import_module(module), "subject", lambda: attrs.evolve(known, here=False))
    work = full_size.Work(tmp_path / "told", ())
    getattr(importlib.import_module(module), function)(ASKED, work, *SHORTER[function])
    lines = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    rows = [line for line in lines if "what" in line]
    assert [row["what"] for row in rows] == [line["begins"] for line in lines if "begins" in line]
    assert [row for row in rows if "failed" in row] == []
    measured = [row for row in rows if "skipped" not in row]
    assert measured
    for row in measured:
        assert row["seconds"] > 0
        assert row["peak"] > 0
        assert 0 <= row.get("error", 0) < 0.5
