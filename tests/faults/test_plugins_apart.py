"""Plugins that end the program without an exception when they are imported or asked: the next start tells."""

import json
import os

import pytest
from command_line import python

HOOK = "from dit360_core.plugins.hookspecs import hookimpl\n@hookimpl\ndef dit360_attention_backends():\n    "
OFFER = "from dit360_core.plugins.offers import AttentionBackend\n"
ENDING = {
    "exits": "import os\nos._exit(0)",
    "segfaults": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "aborts": "import os\nos.abort()",
    "exits-in-a-hook": HOOK + "import os; os._exit(3)",
    "exits-when-asked": OFFER + HOOK + "import os; yield AttentionBackend(name='asked', api=1, load=list, "
    "unsupported=lambda machine, need: os._exit(4))",
}
LIVING = {
    "good": OFFER + HOOK + "yield AttentionBackend(name='good', api=1, load=list)",
    "raises": "raise ImportError('libgood.so')",
}
LOOK = """
import logging, sys
logging.basicConfig(format="%(message)s")
from dit360_core.plugins.registry import default_registry
print([entry.name for entry in default_registry().entries("attention")])
"""
DOCTOR = """
import json, os, sys
from dit360_core.planning.isolation import ending_plugins, without
lost = ending_plugins()
with without(lost):
    inside = os.environ["DIT360_DISABLED_PLUGINS"]
json.dump([lost, inside, os.environ.get("DIT360_DISABLED_PLUGINS")], sys.stdout)
"""


def site_of(folder, modules):
    """A folder of distributions as pip leaves them, one for each module."""
    for name, code in modules.items():
        module = name.replace("-", "_")
        (folder / f"{module}.py").write_text(code)
        about = folder / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[dit360]\nkernels = {module}\n")
    return folder


@pytest.fixture
def home(tmp_path):
    """Where programs keep their state, the only one that is told."""
    return tmp_path / "state"


def test_the_doctor_names_every_plugin_that_ends_a_process_and_no_other(tmp_path, home):
    site = site_of(tmp_path, {**ENDING, **LIVING})
    done = python(DOCTOR, cwd=tmp_path, PYTHONPATH=site, XDG_STATE_HOME=home)
    lost, inside, after = json.loads(done.stdout)
    assert lost == {
        "aborts:kernels": "SIGABRT",
        "exits:kernels": "exit code 0",
        "exits-in-a-hook:kernels": "exit code 3",
        "exits-when-asked:kernels": "exit code 4",
        "segfaults:kernels": "SIGSEGV",
    }
    assert set(inside.split(",")) == set(lost)
    assert after is None


@pytest.mark.skipif(os.name == "nt", reason="files cannot be locked there")
@pytest.mark.parametrize(("name", "code"), [("exits", 0), ("exits-in-a-hook", 3)])
def test_the_start_after_one_that_ended_without_a_word_names_the_plugin(tmp_path, home, name, code):
    site = site_of(tmp_path, {name: ENDING[name], **LIVING})
    first, second = (python(LOOK, cwd=tmp_path, PYTHONPATH=site, XDG_STATE_HOME=home) for _ in range(2))
    assert (first.returncode, first.stdout, first.stderr) == (code, "", "")
    assert f"ended without a word while the plugin {name}:kernels was imported or asked" in second.stderr
    assert f"set DIT360_DISABLED_PLUGINS={name}:kernels" in second.stderr
    off = {"DIT360_DISABLED_PLUGINS": f"{name}:kernels"}
    third, fourth = (python(LOOK, cwd=tmp_path, PYTHONPATH=site, XDG_STATE_HOME=home, **off) for _ in range(2))
    assert name in third.stderr, "the second ended too"
    assert "'good'" in third.stdout
    assert "ended without" not in fourth.stderr
    assert list((home / "dit360").iterdir()) == []
