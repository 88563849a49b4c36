"""Runs ``dit360`` in a process of its own: several command lines one after the other, since imports cost seconds."""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import attrs
import forked

PLUGINS = Path(__file__).parent / "plugins"
LIBRARIES = Path(__file__).parent / "libraries"
HANGING = 3600
"""Seconds after which a process is taken to hang for ever: a guard, and nothing that a busy machine could reach."""

MARKS = re.compile("[\ufdd0-\ufdd3]|\\\\ufdd[0-3]")
"""What options are marked with in the program's own sentences, as they are and in JSON: nobody else sees it."""

_OURS = {
    name: value for name, value in os.environ.items() if not name.startswith(("DIT360_", "FORCE_COLOR", "PYTHONPATH"))
}
"""As it was when tests were collected: Ray and PyTorch's compiler change it for the process that they are in."""
# No folder, and none can be made there: no test finds a server that it did not start.
_OURS["DIT360_STATE_DIR"] = str(Path(os.devnull) / "none")

_MANY = """
import contextlib, io, json, os, random, secrets, signal, sys, traceback
secrets.randbits = random.Random(7).getrandbits  # seeds that nobody gave, as in conftest.py
asked = json.load(sys.stdin)
for name in asked["without"]:
    sys.modules[name] = None  # importing it raises ImportError
# Also where the tests run in the background of a shell, which starts its children with the signal switched off.
signal.signal(signal.SIGINT, signal.default_int_handler)
from dit360_core.cli import main
import functools, typer.main
typer.main.get_command = functools.cache(typer.main.get_command)  # for each line anew it would be half of its time
told = []
for arguments, folder in zip(asked["commands"], asked["folders"] or [None] * len(asked["commands"])):
    if folder:
        os.chdir(folder)
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["dit360", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
    told.append({"code": code or 0, "out": out.getvalue(), "err": err.getvalue()})
json.dump(told, sys.stdout)
"""


@attrs.frozen
class Told:
    """What one command line said on its two outputs, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def environment(**changes):
    """The tests' environment without what would change the program's words, and with ``changes``."""
    return {**_OURS, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **{name: str(value) for name, value in changes.items()}}


def python(code, *, cwd, given="", fresh=False, **environ):
    """Runs Python code in a process of its own. ``given`` is its standard input.

    fresh: nothing is imported yet; else what takes seconds may be.
    """
    variables = environment(PYTHONIOENCODING="utf-8", **environ)
    if not fresh and forked.can_be_forked(variables):
        return forked.run(code, cwd=str(cwd), environment=variables, given=given, patience=HANGING)
    return subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=variables,
        timeout=HANGING,
        check=False,
    )


def dit360(*commands, cwd, before="", without=(), folders=(), fresh=False, **environ):
    """Runs command lines (each a list of arguments) in one process, in which ``without`` cannot be imported.

    before: code that the process runs first. folders: for each, the one that it runs in; else all run in ``cwd``.
    fresh: nothing is imported yet, as ever where something cannot be.
    """
    lines = [[str(word) for word in command] for command in commands]
    asked = json.dumps({"commands": lines, "without": list(without), "folders": [str(folder) for folder in folders]})
    done = python(before + _MANY, cwd=cwd, given=asked, fresh=fresh or bool(without), **environ)
    assert done.returncode == 0, done.stderr
    return [Told(**told) for told in json.loads(done.stdout)]


def install(target, *names, source=PLUGINS):
    """Builds the distributions of those names under a folder and unpacks their wheels into another, for PYTHONPATH."""
    from hatchling.builders.wheel import WheelBuilder

    for name in names:
        with tempfile.TemporaryDirectory() as built:
            for wheel in WheelBuilder(str(source / name)).build(directory=built, versions=["standard"]):
                with zipfile.ZipFile(wheel) as files:
                    files.extractall(target)
    return target
