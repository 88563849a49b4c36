"""What goes wrong between this machine and the Hub: one sentence, soon, and nothing that breaks the next try.

A server on this machine speaks as much of the Hub's language as huggingface_hub asks for; each of its repositories has
a fault of its own.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command_line import dit360, python

SHA = "c0ffee" * 6 + "c0ff"
TOKEN = "hf_" + "s3cret" * 6
BIG = "transformer/diffusion_pytorch_model.safetensors"


class Hub(ThreadingHTTPServer):
    """Repositories ``someone/FAULT`` with the files of the embedded model; what was asked for is kept."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            str(file.relative_to(folder).as_posix()): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }
        self.asked = []
        self.commit = SHA
        self.over = threading.Event()
        self.healed = set()
        """Repositories whose fault is over."""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # connections that are cut on purpose


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, self.headers.get("Authorization")))
        api = re.fullmatch(r"/api/models/([\w-]+/([\w-]+))(?:/(revision|tree)/[\w]+)?", path)
        file = re.fullmatch(r"/([\w-]+/([\w-]+))/resolve/\w+/(.+)", path)
        repo, fault = (api or file).groups()[:2]
        sick = fault not in self.server.healed
        if sick and (refusal := REFUSALS.get(fault)) and (file or not refusal.get("files_only")):
            if refusal.get("never"):
                self.server.over.wait(100)
            self.send(refusal["status"], b"", **refusal.get("headers", {}))
        elif api and api[3] == "tree":
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files_of(fault).items()
            ]
            self.send(200, json.dumps(files).encode(), content_type="application/json")
        elif api:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                for name, data in self.files_of(fault).items()
            ]
            for one in siblings:
                if fault == "larger-than-the-disk" and one["rfilename"] == BIG:
                    one["size"] = 2**60
            about = {"id": repo, "sha": self.server.commit, "siblings": siblings}
            self.send(200, json.dumps(about).encode(), content_type="application/json")
        else:
            self.send_file(fault if sick else "", file[3], body)

    def files_of(self, fault):
        files = self.server.files
        if fault == "leads-out":
            return {**files, "scheduler/../../../../escaped.json": b"{}", "/absolute.json": b"{}"}
        return files

    def send_file(self, fault, name, body):
        data = self.server.files.get(name, b"{}")
        start = int(re.sub(r"\D", "", self.headers.get("Range") or "0"))
        told = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        if not body:
            self.send(200, data, body=False, **told)
        elif name == BIG and fault == "breaks-off":
            self.send(206 if start else 200, data[start:], cut=len(data) // 2 - start, **told)
        elif name == BIG and fault == "reset":
            # With this, closing sends a reset instead of waiting for what was sent to arrive.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.send(200, data, cut=len(data) // 2, **told)
        elif name == BIG and fault == "cut-short":
            self.send(200, data[: len(data) // 2], **told)
        elif name == BIG and fault == "other-bytes":
            self.send(200, bytes(len(data)), **told)
        else:
            self.send(206 if start else 200, data[start:], **told)

    def send(self, status, data, *, body=True, cut=None, content_type="application/octet-stream", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            if cut is not None:
                self.wfile.write(data[: max(cut, 0)])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(data)


REFUSALS = {
    "unauthorized": {"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}},
    "gated": {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}, "files_only": True},
    "forbidden": {"status": 403, "headers": {"X-Error-Message": "Forbidden"}},
    "gated-too": {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
    "forbidden-files": {"status": 403, "files_only": True},
    "missing": {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}},
    "busy": {"status": 429, "headers": {"Retry-After": "240"}},
    "busy-files": {"status": 429, "headers": {"Retry-After": "240"}, "files_only": True},
    "busy-hint": {"status": 429, "headers": {"ratelimit": '"resolvers";r=0;t=120'}, "files_only": True},
    "busy-silent": {"status": 429, "files_only": True},
    "down": {"status": 500},
    "down-files": {"status": 503, "files_only": True},
    "silent": {"status": 200, "never": True},
}  # fmt: skip


HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
RIGHTS = "The Hub forbids someone/{} to the token that is set here; give the token the right to read it at"
BUSY = "The Hub has had too many requests from here, so someone/{} is not complete; run it again {}, it goes on where"
FAULTS = {
    "unauthorized": "The Hub does not accept the token that is set here, so someone/unauthorized .*run 'hf auth login'",
    "gated": "someone/gated is behind a licence .*accept it at https://huggingface.co/someone/gated, then run 'hf auth",
    "forbidden": RIGHTS.format("forbidden"),
    "forbidden-files": RIGHTS.format("forbidden-files"),
    "missing": "someone/missing does not exist on the Hub, or is private .*check the name at https://huggingface.co/",
    "busy": BUSY.format("busy", "in 240 s"),
    "busy-files": BUSY.format("busy-files", "in 240 s"),
    "busy-hint": BUSY.format("busy-hint", "in 120 s"),
    "busy-silent": BUSY.format("busy-silent", "in some minutes"),
    "down": r"The Hub failed to answer for someone/down \(HTTP 500\); run it again later",
    "down-files": r"The Hub failed to answer for someone/down-files \(HTTP 503\); run it again later",
    "silent": "someone/silent is not complete in the local cache and the Hub cannot be reached; connect to the network",
    "breaks-off": r"The download of someone/breaks-off broke off \(.*\); run it again, it goes on where it stopped",
    "reset": r"The download of someone/reset broke off \(.*\); run it again, it goes on where it stopped",
    "cut-short": r"The download of someone/cut-short arrived damaged \(Consistency check failed: .*\); run it again",
    "other-bytes": r"transformer.diffusion_pytorch_model.safetensors is damaged or cut off .*"
    "; download it again with 'hf download someone/other-bytes --force-download'",
    "larger-than-the-disk": r"someone/larger-than-the-disk takes 10737418\d\d.\d GiB more in .*hub, where .* GiB are "
    "free; free disk space, or move the cache with HF_HOME",
    "leads-out": r"What the Hub says of someone/leads-out cannot be used \(.*\.\..*\); get another model",
}  # fmt: skip
WAITING = ("silent", "breaks-off")
"""These take seconds of waiting, beside which the others are tried."""


@pytest.fixture(scope="module")
def hub(tiny_folder):
    with Hub(tiny_folder) as hub:
        serving = threading.Thread(target=hub.serve_forever, args=(0.05,))
        serving.start()
        yield hub
        hub.over.set()
        hub.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def around(hub, home, **changes):
    return {
        "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def told(hub, home):
    """What was told of each fault, by processes that cannot import torch."""

    def tried(*faults):
        commands = [["generate", "a castle", "--model", f"someone/{fault}", "-o", "new.png"] for fault in faults]
        return dict(zip(faults, dit360(*commands, cwd=home, without=HEAVY, **around(hub, home)), strict=True))

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(tried, fault) for fault in WAITING]
        told = tried(*(fault for fault in FAULTS if fault not in WAITING))
        for one in waiting:
            told |= one.result()
        return told


@pytest.mark.parametrize(("fault", "sentence"), FAULTS.items(), ids=FAULTS)
def test_a_fault_of_the_network_or_the_hub_is_one_sentence_and_exit_code_2(told, fault, sentence):
    said = told[fault]
    assert said.code == 2, said
    assert re.fullmatch(r"Error: [^\n]+\.\n", said.err), said.err
    assert re.search(sentence, said.err), said.err


def test_nothing_is_asked_for_again_and_again(told, hub):
    """huggingface_hub alone asks six times, with waits of 24 seconds or of six times what the Hub asks for."""
    for fault in REFUSALS:
        files = [path for _, path, _ in hub.asked if path.startswith(f"/someone/{fault}/")]
        assert len(files) == 0 or max(map(files.count, files)) <= 3, fault
        if fault in ("busy-files", "busy-hint"):  # which say that it would take minutes
            assert set(map(files.count, files)) == {1}, fault


def test_the_token_is_sent_to_the_hub_and_shown_to_nobody(told, hub):
    assert any(token == f"Bearer {TOKEN}" for _, _, token in hub.asked)
    assert not any(TOKEN in said.err + said.out for said in told.values())


def test_no_code_is_fetched_and_no_file_leads_out_of_the_cache(told, hub, home):
    assert not any(path.endswith((".py", ".bin")) for _, path, _ in hub.asked)
    assert any("leads-out" in path for _, path, _ in hub.asked)
    assert not [path for path in home.rglob("*") if path.name in ("escaped.json", "absolute.json")]
    assert sorted(path.name for path in home.iterdir()) == ["hf"]


@pytest.fixture(scope="module")
def healed(told, hub, home):
    """Where each model is after a second try, for which the Hub is well, and after a third without a network."""
    hub.healed |= set(FAULTS)
    again = ["unauthorized", "gated", "busy-files", "down-files", "silent", "breaks-off", "reset", "cut-short"]
    code = (
        "import sys\n"
        "from dit360_core.models.families import locate\n"
        "for name in sys.stdin.read().split(): print(locate('someone/' + name))\n"
    )
    online = python(code, cwd=home, given=" ".join(again), **around(hub, home))
    offline = python(code, cwd=home, given=" ".join(again), **around(hub, home, HF_HUB_OFFLINE="1"))
    return again, online, offline


def test_after_every_fault_the_next_try_brings_the_whole_model(healed, tiny_folder):
    again, online, _ = healed
    folders = online.stdout.split()
    assert len(folders) == len(again), online.stderr
    whole = (tiny_folder / BIG).read_bytes()
    for folder in folders:
        with open(f"{folder}/{BIG}", "rb") as file:
            assert file.read() == whole, folder


def test_what_was_fetched_is_found_again_without_a_network(healed):
    _, online, offline = healed
    assert offline.stdout == online.stdout, offline.stderr


def test_a_lora_and_a_part_of_a_model_are_refused_in_the_same_words(hub, home):
    commands = [["generate", "a castle", option, "someone/gated-too"] for option in ("--lora", "--vae", "--t5")]
    for said in dit360(*commands, cwd=home, without=HEAVY, **around(hub, home)):
        assert said.code == 2, said
        assert re.fullmatch(
            r"Error: someone/gated-too is behind a licence [^\n]+ then run 'hf auth login'\.\n", said.err
        )


def test_a_download_tells_how_many_bytes_have_arrived_and_what_a_listener_raises_ends_it(hub, home):
    code = (
        "from dit360_core.models.weights.hub import fetch\n"
        "from dit360_core.system.progress import telling\n"
        "class Enough(Exception): pass\n"
        "def stop(doing, done, total):\n"
        "    raise Enough\n"
        "heard = []\n"
        "try:\n"
        "    with telling(stop): fetch('someone/watched', ['*/*'])\n"
        "except Enough: print('ended')\n"
        "with telling(lambda *told: heard.append(told)): folder = fetch('someone/watched', ['*/*'])\n"
        "doing, done, total = zip(*heard)\n"
        "print(set(doing), list(done) == sorted(done), done[-1] == total[-1])\n"
        "with telling(lambda *told: heard.append(told)): assert fetch('someone/watched', ['*/*']) == folder\n"
        "print(len(heard) == len(doing))\n"
    )
    said = python(code, cwd=home, **around(hub, home))
    assert said.stdout.split("\n")[:3] == ["ended", "{'Downloading someone/watched'} True True", "True"], said.stderr


def test_what_a_listener_raises_is_not_lost_where_a_download_goes_on_all_the_same(hub, home):
    """Xet prints what a bar raises, and downloads the file to its end."""
    code = (
        "import huggingface_hub\n"
        "from dit360_core.models.weights.hub import fetch\n"
        "from dit360_core.system.progress import telling\n"
        "whole = huggingface_hub.snapshot_download\n"
        "def deaf(*given, tqdm_class, **more):\n"
        "    class Deaf(tqdm_class):\n"
        "        def update(self, n=1):\n"
        "            try: super().update(n)\n"
        "            except BaseException: pass\n"
        "    return whole(*given, tqdm_class=Deaf, **more)\n"
        "huggingface_hub.snapshot_download = deaf\n"
        "def stop(doing, done, total):\n"
        "    if done: raise RuntimeError('enough')\n"
        "try:\n"
        "    with telling(stop): fetch('someone/deaf', ['*/*'])\n"
        "except RuntimeError as error: print(error)\n"
    )
    said = python(code, cwd=home, **around(hub, home))
    assert said.stdout == "enough\n", said.stderr


def test_what_another_revision_has_too_is_not_to_be_downloaded(hub, home, monkeypatch):
    code = (
        "from dit360_core.models.weights.hub import fetch\n"
        "from dit360_core.system.progress import telling\n"
        "heard = []\n"
        "with telling(lambda *told: heard.append(told)): fetch('someone/edited', ['*/*'])\n"
        "print(len(heard))\n"
    )
    first = python(code, cwd=home, **around(hub, home))
    assert int(first.stdout) > 1, first.stderr
    monkeypatch.setattr(hub, "commit", "decade" * 6 + "deca")
    again = python(code, cwd=home, **around(hub, home))
    assert again.stdout == "0\n", again.stderr
