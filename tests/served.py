"""A server of the embedded model in a process of its own, on a free port."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

PATIENCE = 300
"""Seconds: a guard against hanging, which a busy machine does not reach."""


@attrs.define
class Served:
    """One that runs. folder: of its pictures; state: in which it tells of itself."""

    process: subprocess.Popen
    port: int
    token: str
    folder: Path
    state: Path

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, *,
        token: bool = True,
    ) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
        """(status, headers, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        given = {"Authorization": f"Bearer {self.token}"} if token else {}
        try:
            connection.request(method, path, body, {**given, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, told: Any = None) -> Any:
        """The answer to a request in JSON."""
        body = None if told is None else json.dumps(told).encode()
        return json.loads(self.raw(method, path, body, {"Content-Type": "application/json"})[2])

    def submit(self, prompt: str = "a calm sea", **more: Any) -> dict[str, Any]:
        options = {"prompt": prompt, "width": 128, "steps": 2, "seed": 1, **more.pop("options", {})}
        return self.ask("POST", "/api/jobs", {"options": options, **more})

    def over(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What became of a job."""
        found = dict(job)
        deadline = time.monotonic() + PATIENCE
        while found["status"] not in ("done", "failed", "cancelled"):
            assert time.monotonic() < deadline, found
            found = self.ask("GET", f"/api/jobs/{found['number']}?after={found['version']}")
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


def free_port() -> int:
    """A port that nobody listens to, just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(folder: Path, *more: str, ready: bool = True) -> Iterator[Served]:
    """A server, until the block ends. ready: with its weights in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    state, port = folder / "state", free_port()
    environment = {**os.environ, "DIT360_STATE_DIR": str(state), "OMP_NUM_THREADS": "1"}
    log = (folder / "log.txt").open("ab")
    command = [sys.executable, "-m", "dit360_core.cli", "serve", "--port", str(port), "-o", str(folder / "made"), *more]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        found: dict[str, Any] = {}
        while found.get("pid") != process.pid:
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
            for told in state.glob(f"server-*-{port}.json"):
                found = json.loads(told.read_text())
        server = Served(process, port, found["token"], folder / "made", state)
        if ready:
            assert server.over(server.submit(keep=False))["status"] == "done"
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()


def in_base64(data: bytes, ending: str) -> dict[str, str]:
    """A file in a request."""
    return {"data": base64.b64encode(data).decode(), "ending": ending}
