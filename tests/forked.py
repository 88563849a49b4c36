"""Processes that have imported PyTorch and diffusers already: forks of one that did it once.

Those imports cost seconds of a processor each time, and many tests need a process of their own for something else: to
end it, to install plugins into it, or to run a command as people do. Tests of what is imported take a fresh one.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import tempfile

_LATE = (
    "DIT360_",
    "PYTHONPATH",
    "PYTHONIOENCODING",
    "COLUMNS",
    "COMFYUI_DIR",
    "BROWSER",
    "TMPDIR",
    "OMP_NUM_THREADS",
    "HF_",
)
"""Variables that nothing reads while it is imported, or that are made up for after the fork."""

_SERVER = """
import contextlib, gc, importlib, json, os, select, signal, socket, sys, tempfile

gc.disable()  # as in conftest.py, while modules are imported
import torch
import diffusers, peft, transformers
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from huggingface_hub import constants
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
import dit360_core.batching.painting, dit360_core.cli, dit360_core.pipeline.loading
import dit360_core.models.flux.engine, dit360_core.models.flux.networks

def next_code(lines):
    # Returns in the process that is asked for; the server itself ends when nobody is left who could ask.
    while True:
        ready = select.select(lines, [], [])[0][-1]
        if ready is lines[0]:
            lines.append(ready.accept()[0])
            continue
        try:
            request, handed, _, _ = socket.recv_fds(ready, 16, 5)
        except ConnectionError:
            request = b""
        if not request:
            ready.close()
            lines.remove(ready)
            if len(lines) == 1:
                os._exit(0)
            continue
        if not os.fork():  # it waits for the process that is asked for, so that several may run at once
            for line in lines:
                line.close()
            pid = os.fork()
            if not pid:
                break
            os.write(handed[4], b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        for number in handed:
            os.close(number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os.close(handed[4])
    with os.fdopen(handed[0], encoding="utf-8") as file:
        asked = json.load(file)
    for number, ours in zip(handed[1:4], (0, 1, 2)):
        os.dup2(number, ours)
        os.close(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    tempfile.tempdir = None  # TMPDIR may be another
    importlib.reload(constants)  # where the Hub is, and its cache
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return asked["code"]

os.chdir("/")  # a folder that nobody removes
gc.collect()
gc.freeze()
gc.enable()
code = next_code([socket.socket(fileno=int(sys.argv.pop()))])
exec(compile(code, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
"""


def can_be_forked(environment: dict[str, str]) -> bool:
    """Whether a process with these variables can be one of those."""
    changed = {name for name, _ in set(environment.items()) ^ set(_started_with().items())}
    usual = environment.get("PYTHONIOENCODING", "utf-8") == "utf-8"
    return sys.platform == "linux" and usual and all(name.startswith(_LATE) for name in changed)


@functools.cache
def _started_with() -> dict[str, str]:
    from command_line import environment

    return environment(PYTHONIOENCODING="utf-8")


class _Server:
    """A line to the process that has imported everything, which forks one for each piece of code that it is given.

    One is enough for all workers of pytest. Whoever is the first to take its address starts it; what others ask
    meanwhile waits until it has imported everything, and it ends when the last of them has.
    """

    def __init__(self) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
        address = f"\0dit360 tests {run}"  # Linux's own kind, which is no file and goes with the process
        self._line = socket.socket(socket.AF_UNIX)
        while self._line.connect_ex(address):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as taken:
                taken.bind(address)
                taken.listen()
                taken.set_inheritable(True)
                # Nobody waits for it: it may outlive who started it.
                os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-c", _SERVER, str(taken.fileno())],
                    _started_with(),
                    file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                )
        atexit.register(self._line.close)

    def run(self, code: str, cwd: str, environment: dict[str, str], given: str, patience: float):
        asked = {"code": code, "cwd": os.path.abspath(cwd), "environment": environment}
        with contextlib.ExitStack() as open_:
            request, stdin, out, err = (open_.enter_context(tempfile.TemporaryFile()) for _ in range(4))
            reading, writing = (
                open_.enter_context(os.fdopen(end, mode)) for end, mode in zip(os.pipe(), "rw", strict=True)
            )
            request.write(json.dumps(asked).encode())
            stdin.write(given.encode())
            for file in (request, stdin):
                file.seek(0)
            socket.send_fds(self._line, [b"run"], [file.fileno() for file in (request, stdin, out, err, writing)])
            writing.close()
            if not select.select([reading], [], [], patience)[0]:
                raise subprocess.TimeoutExpired(code, patience)
            answer = reading.read()
            assert answer, "the process that forks the others has ended"
            for file in (out, err):
                file.seek(0)
            said = [file.read().decode("utf-8").replace("\r\n", "\n") for file in (out, err)]
        return subprocess.CompletedProcess([sys.executable, "-c", code], int(answer), *said)


_server = functools.cache(_Server)


def run(code: str, *, cwd: str, environment: dict[str, str], given: str = "", patience: float):
    """As ``subprocess.run([sys.executable, "-c", code])``, with everything imported before. environment: all of it."""
    return _server().run(code, cwd, environment, given, patience)


def begin() -> None:
    """Starts the process that forks the others, where there can be one, without waiting for it."""
    if can_be_forked(_started_with()):
        _server()
