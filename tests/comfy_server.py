"""A real ComfyUI, headless and on the CPU, for tests that are marked ``comfyui``.

``COMFYUI_DIR`` names a checkout; ``COMFYUI_PYTHON`` the interpreter that has its requirements and dit360-comfy (by
default that of the tests), ``COMFYUI_ARGUMENTS`` what ComfyUI is started with instead of ``--cpu``. Without the first,
tests skip and say so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

ARGUMENTS = os.environ.get("COMFYUI_ARGUMENTS", "--cpu").split()
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)


def comfyui_dir() -> Path:
    """The checkout to test with; skips where there is none."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.skip("COMFYUI_DIR names no checkout of ComfyUI")
    if not (Path(folder) / "main.py").is_file():
        pytest.fail(f"COMFYUI_DIR={folder} has no main.py")
    return Path(folder)


@attrs.frozen
class Answer:
    """What a server said: HTTP status and JSON (or bytes where it is none)."""

    status: int
    body: Any


class Server:
    """One running ComfyUI. base: a folder with its own custom_nodes, models, output, input, temp and user."""

    def __init__(self, base: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        folder = comfyui_dir()
        self.base = base
        for name in ("custom_nodes", "models", "output", "input", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log_file = base / "server.log"
        self.client = uuid.uuid4().hex
        self._log = self.log_file.open("w")
        self._process = subprocess.Popen(
            [
                PYTHON, str(Path(__file__).with_name("comfy_serve.py")), str(folder),
                *ARGUMENTS, "--listen", "127.0.0.1", "--port", str(self.port),
                "--base-directory", str(base), "--disable-auto-launch", *arguments,
            ],
            stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})},
        )  # fmt: skip

    def __enter__(self) -> Server:
        until = time.monotonic() + 600  # of a busy machine too
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at its start:\n{self.log()[-4000:]}")
            try:
                if self.get("/system_stats").status == 200:
                    return self
            except urllib.error.URLError:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer:\n{self.log()[-4000:]}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_file.read_text(errors="replace")

    def get(self, path: str, **query: str) -> Answer:
        return self._ask(urllib.request.Request(f"{self.url}{path}" + (f"?{_encoded(query)}" if query else "")))

    def post(self, path: str, body: Any = None) -> Answer:
        data = json.dumps(body if body is not None else {}).encode()
        return self._ask(
            urllib.request.Request(f"{self.url}{path}", data=data, headers={"Content-Type": "application/json"})
        )

    def queue(self, graph: Mapping[str, Any]) -> Answer:
        """Sends a graph in the API's format; the answer has ``prompt_id`` or ``error`` and ``node_errors``."""
        return self.post("/prompt", {"prompt": graph, "client_id": self.client})

    def run(self, graph: Mapping[str, Any], timeout: float = 900) -> dict[str, Any]:
        """The history entry of a graph that was run to its end, whatever that was."""
        answer = self.queue(graph)
        assert answer.status == 200, answer.body
        return self.wait(answer.body["prompt_id"], timeout)

    def wait(self, prompt_id: str, timeout: float = 900) -> dict[str, Any]:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            done = self.get(f"/history/{prompt_id}").body
            if prompt_id in done:
                return done[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(f"the graph did not end:\n{self.log()[-3000:]}")

    def view(self, image: Mapping[str, str]) -> bytes:
        """The bytes of a picture that a node told of: filename, subfolder, type."""
        return self.get("/view", **image).body  # type: ignore[no-any-return]

    def _ask(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                status, data = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        try:
            return Answer(status, json.loads(data))
        except ValueError:
            return Answer(status, data)


def errors(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The execution errors that a history entry tells."""
    return [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]


def _encoded(query: Mapping[str, str]) -> str:
    return urllib.parse.urlencode(query)
