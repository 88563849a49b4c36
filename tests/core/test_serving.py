"""A server: the pictures that commands make without it, OpenAI's client, who is refused, what outlives a process."""

import asyncio
import base64
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command_line import dit360
from dit360_core.errors import Dit360Error, InputError
from dit360_core.options import LoadOptions
from dit360_core.panorama.formats import Saving
from dit360_core.panorama.picture import Panorama
from dit360_core.serving import place
from dit360_core.serving.asking import Gone, Server, server_for
from dit360_core.serving.identity import identity
from dit360_core.serving.images_api import UnknownModel, asked_of, plain_values
from dit360_core.serving.shelf import MOST_BEGUN, WAITING, Shelf
from dit360_core.serving.wanted import MOST_PHOTOS, Upload, Wanted, wanted_of
from dit360_core.system.installed import installed_version
from PIL import Image
from served import free_port, in_base64, serving

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

SMALL = ["--width", "128", "--steps", "2", "--seed", "7"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


def png(width=128, height=64, colour=(90, 120, 160)):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def wait_for(*jobs):
    """Until nothing more becomes of them."""
    deadline = time.monotonic() + 300
    while not all(job.over for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------- commands use it


def test_generate_lets_it_make_the_same_file(server, tmp_path):
    Image.new("RGB", (128, 64), (90, 120, 160)).save(tmp_path / "image.png")
    Image.new("L", (128, 64), 255).crop((0, 0, 64, 64)).resize((128, 64)).save(tmp_path / "mask.png")
    edit = ["generate", "a meadow", "--image", "image.png", "--region", "0,0,60", *SMALL[2:]]
    by_server, alone, edited, edited_alone, other = dit360(
        ["generate", "a castle", "-o", "a.jpg", *SMALL],
        ["generate", "a castle", "-o", "b.jpg", "--server", "never", *SMALL],
        [*edit, "-o", "c.png"],
        [*edit, "-o", "d.png", "--server", "never"],
        ["generate", "a castle", "-o", "e.jpg", "--precision", "bf16", *SMALL],
        cwd=tmp_path,
        DIT360_STATE_DIR=str(server.state),
    )
    assert "by the server at" in by_server.err
    assert "by the server at" in edited.err
    assert "loading" in alone.err
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes()
    # Another model is not taken for it, and that is said.
    assert "with other options; it is not used" in " ".join(other.err.split())
    assert other.code == edited_alone.code == 0


def test_what_is_wrong_with_a_command_is_told_as_ever(server, tmp_path):
    (tmp_path / "there.jpg").write_bytes(b"mine")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    there, broken, size, server_flag = dit360(
        ["generate", "a castle", "-o", "there.jpg", *SMALL],
        ["generate", "a castle", "--image", "broken.png", "--region", "0,0,60", "-o", "x.jpg"],
        ["generate", "a castle", "--width", "100", "-o", "y.jpg"],
        ["generate", "a castle", "--server", "perhaps", "-o", "z.jpg"],
        cwd=tmp_path,
        DIT360_STATE_DIR=str(server.state),
    )
    assert [one.code for one in (there, broken, size, server_flag)] == [2, 2, 2, 2]
    assert (tmp_path / "there.jpg").read_bytes() == b"mine"
    assert "no picture" in broken.err or "Cannot open" in broken.err
    assert "/tmp/dit360-" not in broken.err
    assert "--server is 'perhaps'" in server_flag.err


def test_a_server_that_was_killed_is_no_reason_to_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT360_STATE_DIR", str(tmp_path))
    place.tell(place.Place(port=1, token="x", pid=1, loading={}))
    (made,) = dit360(["generate", "a castle", "-o", "a.jpg", *SMALL], cwd=tmp_path, DIT360_STATE_DIR=str(tmp_path))
    assert made.code == 0
    assert "loading" in made.err


def test_what_a_server_has_not_made_is_made_here_with_the_seeds_that_follow(tmp_path, monkeypatch):
    from dit360_core.cli import app
    from dit360_core.cli.work import remote
    from typer.testing import CliRunner

    class Dying(Server):
        def picture(self, wanted, follow):
            if wanted.options["seed"] != 7:
                raise Gone("The server does not answer.")
            follow({"steps": 2, "done": 1, "preview": False})
            return b"a picture", {"told": [], "number": "n", "width": 128, "height": 64, "seed": 7}

        def forget(self, number):
            pass

    here = place.Place(port=1, token="x", pid=1, loading={})
    monkeypatch.setattr(remote, "server_for", lambda loading: (Dying(place=here), ""))
    done = CliRunner().invoke(app, ["generate", "a sea", "-n", "3", "-o", str(tmp_path / "sea.png"), *SMALL])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sea-1.png").read_bytes() == b"a picture"
    assert [Panorama.open(tmp_path / f"sea-{n}.png").settings["used"]["seed"] for n in (2, 3)] == [8, 9]
    # What a server does not take is made here, too.
    many = [word for _ in range(MOST_PHOTOS + 1) for word in ("--photo", "none.jpg")]
    refused = CliRunner().invoke(app, ["generate", "a sea", *many, "-o", str(tmp_path / "x.png"), *SMALL])
    assert refused.exit_code == 2
    assert "The model is loaded here." in refused.output
    assert "none.jpg" in refused.output


@pytest.mark.parametrize(("status", "kind"), [(413, Gone), (429, Dit360Error)])
def test_what_is_too_large_for_a_server_is_made_without_it_and_a_full_one_is_an_error(status, kind, monkeypatch):
    class Answer:
        def __init__(self):
            self.status = status

        def read(self):
            return b'{"error": {"message": "not so much"}}'

    monkeypatch.setattr("http.client.HTTPConnection.request", lambda *given: None)
    monkeypatch.setattr("http.client.HTTPConnection.getresponse", lambda self: Answer())
    with pytest.raises(kind, match="not so much") as told:
        Server(place=place.Place(port=1, token="x", pid=1, loading={})).state()
    assert type(told.value) is kind


# -------------------------------------------------------------------------------------------------------- its own API


def test_a_picture_comes_with_its_news_and_stays_in_the_folder(server):
    job = server.submit("a castle above a meadow", options={"steps": 4, "seed": 11})
    seen = {job["status"]}
    while job["status"] not in ("done", "failed"):
        job = server.ask("GET", f"/api/jobs/{job['number']}?after={job['version']}")
        seen.add(job["status"])
    assert job["status"] == "done", job
    assert (job["width"], job["height"], job["seed"], job["steps"]) == (128, 64, 11, 4)
    assert "sampling" in seen
    status, headers, data = server.raw("GET", f"/api/jobs/{job['number']}/picture")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert (server.folder / job["name"]).read_bytes() == data
    assert Panorama.open(server.folder / job["name"]).settings["prompt"] == "a castle above a meadow"
    listed = server.ask("GET", "/api/pictures")
    assert listed[0]["name"] == job["name"]
    assert listed[0]["settings"]["seed"] == "11"
    small = Image.open(io.BytesIO(server.raw("GET", f"/pictures/{job['name']}/small")[2]))
    assert small.size == (128, 64)
    page = server.raw("GET", f"/pictures/{job['name']}/view")
    assert b"a castle above a meadow" in page[2]
    assert not list((server.folder / WAITING).iterdir())


def test_what_cannot_be_made_is_told_in_one_sentence(server):
    def refused(**told):
        return server.ask("POST", "/api/jobs", told)["error"]["message"]

    assert "there is no prompt" in refused(options={})
    assert "steps is 0, but must be 1 … 1000" in refused(options={"prompt": "x", "steps": 0})
    assert "there is no option 'stepz'; did you mean steps?" in refused(options={"prompt": "x", "stepz": 1})
    assert "precision belongs to the model" in refused(options={"prompt": "x", "precision": "fp16"})
    assert "format is 'gif'" in refused(options={"prompt": "x"}, format="gif")
    assert "not known" in refused(options={"prompt": "x"}, path="/etc/passwd")
    assert "there is no file '../x'" in refused(options={"prompt": "x"}, files={"../x": {"data": ""}})
    assert "not in base64" in refused(options={"prompt": "x"}, files={"image": {"data": "§"}})
    broken = server.over(
        server.ask("POST", "/api/jobs", {"options": {"prompt": "x"}, "files": {"image": in_base64(b"?", ".png")}})
    )
    assert broken["status"] == "failed"
    assert broken["wrong"]
    assert str(server.folder) not in broken["error"]
    assert "/tmp" not in broken["error"]


def test_one_that_is_not_wanted_any_more_is_not_made(server):
    jobs = [server.submit(options={"steps": 40, "seed": seed}) for seed in (1, 2, 3)]
    for job in reversed(jobs):
        server.raw("DELETE", f"/api/jobs/{job['number']}")
    assert [server.over(job)["status"] for job in jobs] == ["cancelled"] * 3
    assert not list((server.folder / WAITING).iterdir())
    assert server.over(server.submit())["status"] == "done"


# ------------------------------------------------------------------------------------------------------ OpenAI's client


@pytest.fixture
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=server.token, max_retries=0)


def test_openais_client_makes_panoramas(server, client):
    answer = client.images.generate(
        model="gpt-image-1", prompt="a calm sea", n=2, size="128x64", quality="high", extra_body={"steps": 2, "seed": 5}
    )
    pictures = [Image.open(io.BytesIO(base64.b64decode(one.b64_json))) for one in answer.data]
    assert [picture.size for picture in pictures] == [(128, 64)] * 2
    assert pictures[0].format == "PNG"
    assert np.abs(np.asarray(pictures[0], float) - np.asarray(pictures[1], float)).mean() > 0.5
    assert answer.to_dict()["dit360"] == {"seeds": [5, 6], "model": "tiny", "ignored": ["quality"]}
    assert answer.size == "128x64"
    assert "tiny" in [model.id for model in client.models.list()]


def test_openais_client_edits_what_its_mask_leaves_transparent(server, client):
    image = np.full((64, 128, 3), (90, 120, 160), np.uint8)
    mask = np.full((64, 128, 4), 255, np.uint8)
    mask[24:40, 48:80, 3] = 0
    files = []
    for pixels in (image, mask):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(("x.png", buffer.getvalue(), "image/png"))
    answer = client.images.edit(
        model="dit360", image=files[0], mask=files[1], prompt="a castle", extra_body={"steps": 2, "seed": 5}
    )
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).convert("RGB")).astype(int)
    assert np.array_equal(made[28:36, :6], image[28:36, :6])
    assert np.abs(made[28:36, 56:72] - image[28:36, 56:72]).mean() > 3


def test_openais_client_is_told_what_is_wrong(client):
    import openai

    for told, kind, words in (
        ({"size": "1024x1000"}, openai.BadRequestError, "twice"),
        ({"extra_body": {"seed": -1}}, openai.BadRequestError, "seed is -1, but must be a whole number, 0"),
        ({"extra_body": {"seed": 2**70}}, openai.BadRequestError, "must be a whole number, 0"),
        ({"size": "large"}, openai.BadRequestError, "size is 'large'"),
        ({"model": "dall-e-9"}, openai.NotFoundError, "is not loaded; this server has tiny"),
        ({"response_format": "url"}, openai.BadRequestError, "must be b64_json"),
        ({"extra_body": {"stepz": 3}}, openai.BadRequestError, "no parameter 'stepz'"),
    ):
        with pytest.raises(kind, match=words):
            client.images.generate(**{"model": "tiny", "prompt": "a sea", **told})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=client.base_url, api_key="guess", max_retries=0).models.list()


# ---------------------------------------------------------------------------------------------------- who is refused


def hostile():
    """(what, method, path, headers, body, with the token, statuses that are right)"""
    for path in ("/", "/api/state", "/v1/models", "/api/pictures", "/api/jobs/x", "/page/page.mjs"):
        yield f"no token {path}", "GET", path, {}, None, False, {401}
    yield "no token, post", "POST", "/api/jobs", {"Content-Type": "application/json"}, b"{}", False, {401}
    yield "wrong token", "GET", "/api/state", {"Authorization": "Bearer guess"}, None, False, {401}
    yield "basic", "GET", "/api/state", {"Authorization": "Basic Z3Vlc3M6"}, None, False, {401}
    yield "wrong cookie", "GET", "/api/state", {"Cookie": "dit360-1=x"}, None, False, {401}
    yield "broken cookie", "GET", "/api/state", {"Cookie": "=;;\x7f="}, None, False, {400, 401}
    yield "wrong token in the address", "GET", "/?token=guess", {}, None, False, {401}
    yield "many fields in the address", "GET", "/?" + "a=1&" * 40, {}, None, False, {401}
    for host in ("evil.example", "evil.example:80", "127.0.0.1", "localhost:1", "0.0.0.0", "127.0.0.1.evil.example"):
        yield f"host {host}", "GET", "/api/state", {"Host": host}, None, True, {421}
    for origin in ("http://evil.example", "null", "https://localhost", "http://localhost", "file://"):
        yield f"origin {origin}", "POST", "/api/jobs", {"Origin": origin}, b"{}", True, {403}
    for site in ("cross-site", "same-site"):
        yield f"fetched {site}", "GET", "/api/pictures", {"Sec-Fetch-Site": site}, None, True, {403}
    for name in (
        "../server.json", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", ".dit360-waiting",
        "%00.jpg", "..\\..\\x.jpg", "~/x.jpg", "a" * 5000 + ".jpg", "C:%5Cx.jpg",
    ):  # fmt: skip
        for tail in ("", "/view"):
            yield f"picture {name[:30]}{tail}", "GET", f"/pictures/{name}{tail}", {}, None, True, {404}
    yield "part of the page", "GET", "/page/..%2fplace.py", {}, None, True, {404}
    yield "too large by its header", "POST", "/api/jobs", {"Content-Length": str(2**40)}, b"", True, {413}
    yield "negative length", "POST", "/api/jobs", {"Content-Length": "-1"}, b"", True, {400}
    yield "no JSON", "POST", "/api/jobs", {"Content-Type": "application/json"}, b"{", True, {400}
    yield "text", "POST", "/api/jobs", {"Content-Type": "text/plain"}, b"{}", True, {400}
    yield "deep", "POST", "/api/jobs", {"Content-Type": "application/json"}, b"[" * 100_000, True, {400}
    yield "list", "POST", "/v1/images/generations", {"Content-Type": "application/json"}, b"[]", True, {400}
    yield "put", "PUT", "/api/jobs", {}, b"", True, {405}
    yield "trace", "TRACE", "/api/state", {}, None, True, {405}
    yield "many headers", "GET", "/api/state", {f"x-{i}": "1" for i in range(90)}, None, True, {400, 431}
    yield "long header", "GET", "/api/state", {"x-long": "a" * 60_000}, None, True, {400, 431}


def test_hostile_requests_are_refused_and_it_goes_on(server):
    cases = list(hostile())
    assert len(cases) >= 50
    before = sorted(path.name for path in server.folder.iterdir())
    wrong = []
    for what, method, path, headers, body, token, right in cases:
        try:
            status, told, data = server.raw(method, path, body, headers, token=token)
        except (ConnectionError, TimeoutError):
            status, told, data = 400, {}, b""  # it hung up, as it may
        if status not in right:
            wrong.append((what, status, data[:100]))
        assert b"root:" not in data
        assert server.token.encode() not in data
        assert "access-control-allow-origin" not in told
    assert wrong == []
    assert sorted(path.name for path in server.folder.iterdir()) == before
    assert server.over(server.submit())["status"] == "done"


def test_a_body_without_a_length_ends_where_it_becomes_too_large(server):
    from dit360_core.serving.doors import MOST

    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = (
            f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.token}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        line.sendall(head.encode())
        piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        answer = b""
        try:
            for _ in range((MOST >> 20) + 8):
                line.sendall(piece)
            answer = line.recv(4096)
        except ConnectionError:
            pass
    assert answer[:12] in (b"HTTP/1.1 413", b"")
    assert server.ask("GET", "/api/state")["dit360"] is True


def test_the_page_is_opened_with_the_token_and_then_by_a_cookie_that_scripts_cannot_read(server):
    status, headers, _ = server.raw("GET", f"/?token={server.token}", token=False)
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    status, headers, page = server.raw("GET", "/", None, {"Cookie": cookie.split(";")[0]}, token=False)
    assert status == 200
    assert b"<textarea" in page
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    for part, kind in (("page.mjs", "text/javascript"), ("page.css", "text/css")):
        found = server.raw("GET", f"/page/{part}")
        assert found[0] == 200
        assert found[1]["content-type"].startswith(kind)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
def test_only_this_user_can_read_where_it_is(server):
    (told,) = server.state.glob(f"server-*-{server.port}.json")
    assert stat.S_IMODE(told.stat().st_mode) == 0o600
    assert json.loads(told.read_text())["port"] == server.port


# --------------------------------------------------------------------------------------------------- what outlives it


def test_killed_in_the_middle_and_started_again_it_makes_what_was_asked(tmp_path):
    with serving(tmp_path, "--idle", "0") as first:
        jobs = [
            first.submit("a castle", options={"steps": 60, "seed": 21}),
            first.submit("a sea", options={"seed": 22}),
        ]
        deadline = time.monotonic() + 300
        while first.ask("GET", f"/api/jobs/{jobs[0]['number']}")["done"] < 3:
            assert time.monotonic() < deadline
        first.stop(signal.SIGKILL)
        assert len(list((first.folder / WAITING).glob("*.json"))) == 2
        assert not list(first.folder.glob("*.jpg"))
    with serving(tmp_path, ready=False) as second:
        done = [second.over(second.ask("GET", f"/api/jobs/{job['number']}")) for job in jobs]
        assert [job["status"] for job in done] == ["done", "done"]
        assert sorted(Panorama.open(path).settings["used"]["seed"] for path in second.folder.glob("*.jpg")) == [21, 22]
        assert not list((second.folder / WAITING).iterdir())
        assert second.stop() in (0, 143)  # that of a program that SIGTERM ended
        assert not list(second.state.glob("server-*.json"))


def test_the_weights_leave_memory_when_nobody_asks(tmp_path):
    with serving(tmp_path, "--idle", "0.2") as server:
        deadline = time.monotonic() + 300
        while server.ask("GET", "/api/state")["loaded"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.over(server.submit())["status"] == "done"


def test_a_port_that_is_taken_and_a_second_server_are_told(server, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = str(taken.getsockname()[1])
        second, third = dit360(
            ["serve", "--port", str(server.port), "-o", "x"],
            ["serve", "--port", other, "-o", "x"],
            cwd=tmp_path,
            DIT360_STATE_DIR=str(server.state),
        )
    assert (second.code, third.code) == (2, 2)
    assert "runs at http://127.0.0.1" in second.err
    assert f"Port {other} of this machine is taken" in third.err


# ------------------------------------------------------------------------------------------------------------- parts


def test_a_request_is_the_same_after_it_was_written_and_read():
    wanted = Wanted(
        options={"prompt": "a sea", "seed": 3, "denoise": 0.5},
        files={"image": Upload(data=png(), ending=".png"), "photo-1": Upload(data=b"x", ending=".jpg", how="fov=60")},
        format=".png",
        saving=Saving(bits=16),
        keep=False,
    )
    assert wanted_of(json.loads(json.dumps(wanted.as_json()))) == wanted


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"options": {"prompt": "x"}, "quality": "high"}, "another type"),
        ({"options": {"prompt": "x"}, "quality": True}, "another type"),
        ({"options": {"prompt": "x"}, "quality": 100_000}, "give a whole number from 1 to 100"),
        ({"options": {"prompt": "x" * 20_001}}, "over 20000 characters"),
        ({"options": []}, "JSON objects"),
        ("x", "no JSON object"),
        ({"options": {"prompt": "x"}, "files": {f"photo-{MOST_PHOTOS + 1}": {"data": ""}}}, "there is no file"),
    ],
)
def test_a_request_that_is_none_is_refused(told, said):
    with pytest.raises(InputError, match=said):
        wanted_of(told)


def test_names_of_files_are_never_a_clients():
    for ending in ("/../../x.png", "\\..\\x.png", ".png\0", "./etc/passwd", ".php", ".PNG"):
        (upload,) = wanted_of(
            {"options": {"prompt": "x"}, "files": {"image": {"data": "", "ending": ending}}}
        ).files.values()
        assert upload.ending in ("", ".png")


def test_openais_parameters_become_options():
    asked = asked_of({"prompt": "a sea", "size": "256x128", "n": 2, "seed": 2**64 - 1, "user": "me"}, ("tiny",))
    assert [one.options["seed"] for one in asked.wanted] == [2**64 - 1, 0]
    assert asked.wanted[0].options["width"] == 256
    assert asked.ignored == ("user",)
    assert plain_values({"steps": "4", "n": "2", "guidance": "2.5", "prompt": "4"}) == {
        "steps": 4, "n": 2, "guidance": 2.5, "prompt": "4",
    }  # fmt: skip
    with pytest.raises(InputError, match="steps is 'four'"):
        plain_values({"steps": "four"})
    with pytest.raises(UnknownModel):
        asked_of({"prompt": "x", "model": "other"}, ("tiny",))


def test_a_model_is_told_from_another_by_its_options_and_files_by_their_whole_paths(tmp_path, monkeypatch):
    (tmp_path / "style.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert identity(LoadOptions(), files=False) == {}
    assert identity(LoadOptions()) == {"version": installed_version("dit360-core")}
    near = identity(LoadOptions(lora=("style.safetensors",)))
    far = identity(LoadOptions(lora=(str(tmp_path / "style.safetensors"),)))
    assert near == far != identity(LoadOptions())
    assert identity(LoadOptions(precision="bf16"), files=False) == {"precision": "bf16"}
    strong = [identity(LoadOptions(lora=(f"{name}:0.8",))) for name in ("style.safetensors", "./style.safetensors")]
    assert strong[0] == strong[1] != near
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "style.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "other")
    assert identity(LoadOptions(lora=("style.safetensors:0.8",))) != strong[0]
    (tmp_path / "style.safetensors").write_bytes(b"other weights")
    assert identity(LoadOptions(lora=(str(tmp_path / "style.safetensors"),))) != far
    # A model's folder too, whose parts are folders; what else lies there is no part of it.
    part = tmp_path / "model" / "transformer"
    part.mkdir(parents=True)
    (part / "weights.safetensors").write_bytes(b"")
    before = identity(LoadOptions(model=str(tmp_path / "model")))
    (part / "notes.txt").write_text("x")
    assert identity(LoadOptions(model=str(tmp_path / "model"))) == before
    (part / "weights.safetensors").write_bytes(b"other weights")
    assert identity(LoadOptions(model=str(tmp_path / "model"))) != before


def test_a_server_with_less_memory_makes_what_waited(tmp_path):
    from dit360_core.serving.working import Worker

    shelf = Shelf(tmp_path)
    shelf.check()
    wanted = Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})
    Worker(LoadOptions(vram="12GB"), shelf).submit({"first": wanted})
    assert list(shelf.left({})) != []
    worker = Worker(LoadOptions(offload="none", evict="all"), shelf)
    assert worker.start() == 1
    job = worker.job("first")
    wait_for(job)
    worker.stop()
    assert job.status == "done"


def test_a_stop_in_the_middle_of_a_long_step_is_no_crash(tmp_path, monkeypatch):
    from dit360_core.serving.working import Worker

    shelf = Shelf(tmp_path)
    shelf.check()
    worker = Worker(LoadOptions(), shelf)
    goes_on, entered = threading.Event(), threading.Event()

    def long(job):
        entered.set()
        goes_on.wait(300)

    monkeypatch.setattr(worker, "_paint", long)
    monkeypatch.setattr(worker._thread, "join", lambda timeout: None)  # nobody waits five seconds here
    worker.start()
    worker.submit({"first": Wanted(options={"prompt": "a sea"})})
    assert entered.wait(300)
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["first.1.json"]
    worker.stop()
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["first.json"]
    goes_on.set()


def test_the_address_that_others_may_see_is_good_once_and_for_a_minute(monkeypatch):
    from dit360_core.serving import doors

    now = [0.0]
    monkeypatch.setattr(doors.time, "monotonic", lambda: now[0])
    gate = doors.Doors(None, port=8360, token="the token")

    def status(given):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": f"token={given}".encode(),
                 "headers": [(b"host", b"127.0.0.1:8360")]}  # fmt: skip
        asyncio.run(gate(scope, None, send))
        return sent[0]["status"]

    once = gate.once()
    assert once != "the token"
    assert [status(once), status(once), status("the token")] == [303, 401, 303]
    late = gate.once()
    now[0] = doors.SHORT + 1
    assert status(late) == 401


def test_what_waits_for_another_model_waits_on(tmp_path, caplog):
    shelf = Shelf(tmp_path)
    shelf.check()
    shelf.wait("a1", Wanted(options={"prompt": "one"}), {"model": "dit360"})
    shelf.wait("b2", Wanted(options={"prompt": "two"}), {})
    assert [number for number, _ in shelf.left({})] == ["b2"]
    assert "dit360" in caplog.text
    assert [number for number, _ in shelf.left({"model": "dit360"})] == ["a1"]


def test_one_folder_is_one_servers(tmp_path):
    with Shelf(tmp_path).locked(), pytest.raises(InputError, match="Another server"), Shelf(tmp_path).locked():
        pass
    with Shelf(tmp_path).locked():
        pass


def test_of_several_servers_each_is_told_and_of_those_that_were_killed_none(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT360_STATE_DIR", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    running = [place.Place(port=port, token="t", pid=os.getpid(), loading={}) for port in (8360, 8361)]
    place.tell(place.Place(port=8363, token="t", pid=10**11, loading={}))
    for one in (*running, place.Place(port=8362, token="t", pid=killed.pid, loading={})):
        place.tell(one)
    assert sorted(one.port for one in place.told()) == [8360, 8361]
    place.withdraw(running[1])
    assert place.told() == running[:1]
    assert server_for(LoadOptions()) == (None, "")  # nobody answers there


def test_a_picture_that_cannot_be_written_is_held_and_asked_for_again(tmp_path, monkeypatch):
    from dit360_core.serving.working import Worker

    def full(*given):
        raise Dit360Error("Cannot write: the disk is full.")

    shelf = Shelf(tmp_path)
    shelf.check()
    monkeypatch.setattr(shelf, "put", full)
    worker = Worker(LoadOptions(), shelf)
    worker.start()
    (job,) = worker.submit({"first": Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})})
    wait_for(job)
    assert job.status == "done"
    assert job.data
    assert any("disk is full" in line for line in job.told)
    assert worker.going() == [job]  # a page that is opened now saves it
    assert worker.waiting() == 0
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["first.json"]  # and nobody calls that a crash
    worker.cancel(job)  # whoever asked has it
    worker.stop()
    assert worker.going() == []
    assert list(shelf.left({})) == []


def test_a_silent_connection_is_closed(tmp_path, monkeypatch):
    from dit360_core.serving import connections

    monkeypatch.setattr(connections, "PATIENCE", 0.2)

    async def app(scope, receive, send):
        await asyncio.sleep(0.6)  # longer than silence may be
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def asked(text):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        found = await reader.read(12)
        writer.close()
        return found

    async def all_of_them():
        server = uvicorn.Server(uvicorn.Config(app, port=port, http=connections.Impatient, lifespan="off"))
        running = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        found = await asyncio.gather(
            asked(b""), asked(b"GET / HTTP/1.1\r\nho"), asked(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        )
        server.should_exit = True
        await running
        return found

    port = free_port()
    assert asyncio.run(all_of_them()) == [b"", b"", b"HTTP/1.1 200"]


def test_a_folder_that_goes_wrong_ends_no_server(tmp_path, monkeypatch):
    from dit360_core.serving.working import MOST_WAITING, Full, Worker

    shelf = Shelf(tmp_path)
    shelf.check()
    worker = Worker(LoadOptions(), shelf)

    class Held(type(tmp_path)):
        def unlink(self, missing_ok=False):
            raise PermissionError(13, "another program has it open")

    monkeypatch.setattr(shelf, "_waiting", lambda number: Held(tmp_path / WAITING / f"{number}.json"))
    worker.start()
    wanted = Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})
    jobs = [worker.submit({f"{number}": wanted})[0] for number in range(2)]
    wait_for(*jobs)
    assert [job.status for job in jobs] == ["done", "done"]
    # All of a request are taken, or none.
    monkeypatch.undo()
    worker.stop()
    with pytest.raises(Full):
        worker.submit({f"n{number}": wanted for number in range(MOST_WAITING + 1)})
    assert worker.waiting() == 0


def test_what_programs_have_built_in_is_taken_for_what_there_is():
    told = {"model": "dall-e-3", "prompt": "a sea", "size": "1792x1024", "seed": 2**64 - 1}
    (wanted,) = asked_of(told, ("tiny",)).wanted
    assert (wanted.sampling.width, wanted.sampling.height, wanted.sampling.seed) == (1792, 896, 2**64 - 1)
    with pytest.raises(UnknownModel):
        asked_of({"model": "midjourney", "prompt": "a sea"}, ("tiny",))


def test_cookies_of_other_programs_on_this_machine_hide_no_token(server):
    own = server.raw("GET", f"/?token={server.token}", token=False)[1]["set-cookie"].split(";")[0]
    for other in ('a={"x":1}', "foo[bar]=1", "x y=1", "=;"):
        assert server.raw("GET", "/api/state", None, {"Cookie": f"{other}; {own}"}, token=False)[0] == 200, other
        assert server.raw("GET", "/api/state", None, {"Cookie": f"{other}; {own}x"}, token=False)[0] == 401, other


def test_what_is_made_and_what_waits_is_told_in_its_order(server):
    jobs = [server.submit(f"a sea, {number}", options={"seed": number}) for number in range(2)]
    left = [one["number"] for one in server.ask("GET", "/api/jobs")]
    assert left in ([], [jobs[1]["number"]], [job["number"] for job in jobs])  # as far as they are not done by now
    for job in jobs:
        assert server.over(job)["status"] == "done"
    assert server.ask("GET", "/api/jobs") == []


def test_requests_that_were_begun_come_after_those_that_were_not(tmp_path, caplog):
    shelf = Shelf(tmp_path)
    shelf.check()
    for number in ("a1", "b2", "c3"):
        shelf.wait(number, Wanted(options={"prompt": number}), {})
    for number in ("a1", "a1", "b2"):
        shelf.begin(number)
    assert [number for number, _ in shelf.left({})] == ["c3", "b2", "a1"]
    for _ in range(MOST_BEGUN):
        shelf.begin("a1")
    assert [number for number, _ in shelf.left({})] == ["c3", "b2"]
    assert "a1.json to have it tried again" in caplog.text
    for number in ("a1", "b2", "c3"):
        shelf.done(number)
    assert list((tmp_path / WAITING).iterdir()) == []


def test_a_request_that_is_put_off_by_somebodys_wish_was_not_begun(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.check()
    shelf.wait("a1", Wanted(options={"prompt": "a sea"}), {})
    shelf.begin("a1")
    shelf.begin("a1")
    shelf.leave("a1")
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["a1.1.json"]
    shelf.leave("a1")
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["a1.json"]


def test_a_folder_that_went_away_ends_a_request_and_hangs_nobody(tmp_path, monkeypatch):
    from dit360_core.serving.working import Worker

    shelf = Shelf(tmp_path)
    shelf.check()
    worker = Worker(LoadOptions(), shelf)

    def gone(*given):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(shelf, "begin", gone)
    worker.start()
    (job,) = worker.submit({"first": Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})})
    wait_for(job)
    assert job.status == "failed"
    assert "not connected" in job.error
    worker.stop()


def test_a_server_may_wait_for_ever(tmp_path):
    from dit360_core.serving.working import Worker

    shelf = Shelf(tmp_path)
    shelf.check()
    worker = Worker(LoadOptions(), shelf, idle=float("inf"))
    worker.start()
    wanted = Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})
    for number in ("first", "second"):
        (job,) = worker.submit({number: wanted})
        wait_for(job)
        assert job.status == "done"
    worker.stop()


def test_while_a_model_is_read_it_is_told_how_far_that_is_and_may_be_stopped(tmp_path):
    from dit360_core.serving.working import Worker

    class Watched(Worker):
        def _tell(self, job, **changes):
            heard.append((job.status, changes.get("doing")))
            if "doing" in changes and job.number == "first":
                self.cancel(job)
            super()._tell(job, **changes)

    heard = []
    shelf = Shelf(tmp_path)
    shelf.check()
    worker = Watched(LoadOptions(evict="all"), shelf)
    worker.start()
    wanted = Wanted(options={"prompt": "a sea", "width": 128, "steps": 1})
    jobs = [worker.submit({number: wanted})[0] for number in ("first", "second")]
    wait_for(*jobs)
    worker.stop()
    assert [job.status for job in jobs] == ["cancelled", "done"]
    assert ("loading", "Reading weights 0%") in heard
    assert ("sampling", "Reading weights 0%") in heard  # what was evicted
    assert [job.doing for job in jobs] == ["", ""]


def test_half_a_character_in_a_pictures_metadata_spoils_no_list(server):
    picture = Panorama(Image.new("RGB", (128, 64)), {"prompt": "half \ud800", "used": {"seed": 2**63 + 1}})
    picture.save(server.folder / "half.png")
    listed = {one["name"]: one["settings"] for one in server.ask("GET", "/api/pictures")}
    assert listed["half.png"]["prompt"].startswith("half")
    assert listed["half.png"]["seed"] == str(2**63 + 1)
    job = server.over(server.submit(options={"seed": str(2**63 + 1)}))
    assert job["seed_text"] == str(2**63 + 1)


def test_pictures_of_a_folder_are_found_by_a_list_and_other_files_are_not(tmp_path, tiny):
    shelf = Shelf(tmp_path)
    shelf.check()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken.jpg").write_bytes(b"?")
    name = shelf.put("a café", 5, ".png", png())
    assert name == "a-cafe-5.png"
    assert shelf.put("a café", 5, ".png", png()) != name
    assert shelf.path(name) == tmp_path / name
    assert shelf.path("notes.txt") is None
    assert shelf.path(f"../{tmp_path.name}/{name}") is None
    assert "broken.jpg" in [kept.name for kept in shelf.pictures()]
    if hasattr(os, "symlink"):
        (tmp_path / "link.jpg").symlink_to("/etc/passwd")
        assert shelf.path("link.jpg") is None
