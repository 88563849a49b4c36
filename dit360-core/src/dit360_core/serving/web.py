"""What is answered: the page, the shape of OpenAI's images endpoints, and dit360's own requests."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

import attrs
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dit360_core.errors import Dit360Error, InputError
from dit360_core.errors.sentences import plain
from dit360_core.options import OF_A_PICTURE, options_of
from dit360_core.options.subjects import SUBJECTS, USUAL
from dit360_core.panorama.gpano import MADE
from dit360_core.panorama.picture import Panorama, about
from dit360_core.panorama.viewer import About, page_of
from dit360_core.serving import images_api as theirs
from dit360_core.serving.doors import Doors
from dit360_core.serving.shelf import Shelf
from dit360_core.serving.wanted import Upload, Wanted, ending_of, wanted_of
from dit360_core.serving.working import Full, Job, Worker

log = logging.getLogger("dit360")

POLL = 0.05
"""Seconds between two looks at a job."""
PATIENCE = 25.0
"""Seconds after which a client that waits for news is told that there are none."""
_MIME = {
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".avif": "image/avif",
    ".tif": "image/tiff", ".tiff": "image/tiff", ".exr": "image/x-exr",
}  # fmt: skip
_PARTS = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.mjs": ("page.mjs", "text/javascript"),
}

_FRAMED = {"content-security-policy": "frame-ancestors 'self'"}
"""Of a page whose own policy stands in it."""

Handler = Callable[[Request], Awaitable[Response]]


def _told(handler: Callable[[Any, Request], Awaitable[Response]]) -> Callable[[Any, Request], Awaitable[Response]]:
    """What is wrong with a request becomes an answer."""

    @functools.wraps(handler)
    async def wrapped(self: Any, request: Request) -> Response:
        try:
            return await handler(self, request)
        except theirs.UnknownModel as error:
            return _wrong(plain(error.sentence), 404, code="model_not_found")
        except InputError as error:
            return _wrong(plain(error.sentence), 400)
        except Full:
            return _wrong(
                "So many pictures wait that no more are taken; ask again later.", 429, kind="rate_limit_error"
            )
        except Dit360Error as error:
            return _wrong(plain(error.sentence), 500, kind="server_error")

    return wrapped


def _wrong(message: str, status: int, *, kind: str = "invalid_request_error", code: str | None = None) -> JSONResponse:
    return JSONResponse(theirs.error(message, kind=kind, code=code), status_code=status)


class Web:
    """The answers of one server."""

    def __init__(self, worker: Worker, shelf: Shelf, *, port: int, token: str) -> None:
        self._worker, self._shelf = worker, shelf
        model = worker.plan.model
        self._models = (
            model.name,
            *(name for name in (model.base, "dit360", theirs.THEIR_MODELS[0]) if name and name != model.name),
        )
        routes = [
            Route("/", self.part, methods=["GET"]),
            Route("/page/{part}", self.part, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.edits, methods=["POST"]),
            Route("/api/state", self.state, methods=["GET"]),
            Route("/api/jobs", self.submit, methods=["POST"]),
            Route("/api/jobs", self.going, methods=["GET"]),
            Route("/api/jobs/{number}", self.news, methods=["GET"]),
            Route("/api/jobs/{number}", self.cancel, methods=["DELETE"]),
            Route("/api/jobs/{number}/preview", self.preview, methods=["GET"]),
            Route("/api/jobs/{number}/view", self.coming, methods=["GET"]),
            Route("/api/jobs/{number}/picture", self.picture, methods=["GET"]),
            Route("/api/pictures", self.pictures, methods=["GET"]),
            Route("/pictures/{name}", self.kept, methods=["GET"]),
            Route("/pictures/{name}/small", self.small, methods=["GET"]),
            Route("/pictures/{name}/view", self.view, methods=["GET"]),
        ]
        self.app = Doors(
            Starlette(routes=routes, exception_handlers={HTTPException: _not_there, Exception: _broke}),
            port=port,
            token=token,
        )

    # ------------------------------------------------------------------------------------------------------ the page

    async def part(self, request: Request) -> Response:
        """The page, its style, its script."""
        name, kind = _PARTS.get(request.path_params.get("part", ""), ("", ""))
        if not name:
            return _wrong("There is no such part of the page.", 404)
        text = resources.files("dit360_core.serving").joinpath("page", name).read_bytes()
        return Response(text, media_type=f"{kind}; charset=utf-8")

    async def state(self, request: Request) -> Response:
        """What the server has, and which options a picture takes."""
        model = self._worker.plan.model
        return JSONResponse(
            {
                "dit360": True,
                "model": model.name,
                "width": model.width,
                "steps": model.steps,
                "guidance": model.guidance,
                "loaded": self._worker.loaded,
                "waiting": self._worker.waiting(),
                "folder": str(self._shelf.folder),
                "options": _options(),
            }
        )

    async def pictures(self, request: Request) -> Response:
        """What the folder holds, the newest first."""
        found = await run_in_threadpool(self._shelf.pictures)
        return JSONResponse(
            [{"name": kept.name, "changed": kept.changed, "settings": _shown(kept.settings)} for kept in found]
        )

    async def kept(self, request: Request) -> Response:
        """A picture's file."""
        path = await run_in_threadpool(self._shelf.path, request.path_params["name"])
        if path is None:
            return _wrong("There is no such picture.", 404)
        data = await run_in_threadpool(path.read_bytes)
        return Response(data, media_type=_MIME[path.suffix.lower()])

    @_told
    async def small(self, request: Request) -> Response:
        """A picture small enough for a list."""
        path = await run_in_threadpool(self._shelf.path, request.path_params["name"])
        if path is None:
            return _wrong("There is no such picture.", 404)
        data = await run_in_threadpool(lambda: _small(Panorama.open(path)))
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})

    @_told
    async def view(self, request: Request) -> Response:
        """A picture to look around in and to paint a mask on: the viewer's own page, in a frame."""
        path = await run_in_threadpool(self._shelf.path, request.path_params["name"])
        if path is None:
            return _wrong("There is no such picture.", 404)
        text = await run_in_threadpool(lambda: _view(Panorama.open(path)))
        return Response(text, media_type="text/html; charset=utf-8", headers=_FRAMED)

    # --------------------------------------------------------------------------------------------------- own requests

    @_told
    async def submit(self, request: Request) -> Response:
        """A picture is asked for; the answer tells its number."""
        wanted = await run_in_threadpool(wanted_of, await _json(request))
        job = await self._take(wanted)
        return JSONResponse(self._news(job), status_code=202)

    async def going(self, request: Request) -> Response:
        """Those that are being made or wait, in their order; and those that the folder did not take."""
        return JSONResponse([{**self._news(job), "prompt": job.wanted.prompt} for job in self._worker.going()])

    async def news(self, request: Request) -> Response:
        """What became of a job, as soon as that is other than ``after`` says."""
        job = self._worker.job(request.path_params["number"])
        if job is None:
            return _wrong("There is no such picture.", 404)
        after = request.query_params.get("after", "")
        waited = 0.0
        while str(job.version) == after and not job.over and waited < PATIENCE:
            await asyncio.sleep(POLL)
            waited += POLL
        return JSONResponse(self._news(job))

    async def cancel(self, request: Request) -> Response:
        """A job is not wanted any more."""
        job = self._worker.job(request.path_params["number"])
        if job is None:
            return _wrong("There is no such picture.", 404)
        await run_in_threadpool(self._worker.cancel, job)
        return JSONResponse(self._news(job))

    async def preview(self, request: Request) -> Response:
        """A picture as it is expected by now."""
        job = self._worker.job(request.path_params["number"])
        if job is None:
            return _wrong("There is no such picture.", 404)
        if job.preview is None:  # nothing to see yet, or it is done by now
            return Response(status_code=204)
        return Response(job.preview, media_type="image/jpeg")

    async def coming(self, request: Request) -> Response:
        """The viewer's page with a picture as it is expected by now; the page around it shows how it goes on."""
        job = self._worker.job(request.path_params["number"])
        if job is None:
            return _wrong("There is no such picture.", 404)
        data = job.preview
        if data is None:
            return Response(status_code=204)
        text = await run_in_threadpool(lambda: _view_of(data, job.wanted.prompt))
        return Response(text, media_type="text/html; charset=utf-8", headers=_FRAMED)

    async def picture(self, request: Request) -> Response:
        """The file of a job that is done. One that is not kept in the folder goes when its job is deleted."""
        job = self._worker.job(request.path_params["number"])
        data = None if job is None else await run_in_threadpool(self._data, job)
        if job is None or data is None:
            return _wrong("There is no such picture.", 404)
        return Response(data, media_type=_MIME[job.wanted.format])

    def _data(self, job: Job) -> bytes | None:
        if job.status != "done":
            return None
        path = self._shelf.path(job.name) if job.name else None
        return job.data if path is None else path.read_bytes()

    def _news(self, job: Job) -> dict[str, Any]:
        return {
            "number": job.number,
            "version": job.version,
            "status": job.status,
            "ahead": self._worker.ahead(job) if job.status == "waiting" else 0,
            "done": job.done,
            "steps": job.steps,
            "doing": job.doing,
            "preview": job.preview is not None,
            "error": plain(job.error),
            "wrong": job.wrong,
            "name": job.name,
            "format": job.wanted.format[1:],
            "seconds": round(job.seconds, 3),
            "told": [plain(line) for line in job.told],
            **job.settings,
            **({"seed_text": str(job.settings["seed"])} if "seed" in job.settings else {}),
        }

    async def _take(self, wanted: Wanted) -> Job:
        (job,) = await self._take_all([wanted])
        return job

    async def _take_all(self, wanted: Sequence[Wanted]) -> list[Job]:
        return await run_in_threadpool(self._worker.submit, {secrets.token_hex(16): one for one in wanted})

    # -------------------------------------------------------------------------------------------- OpenAI's endpoints

    async def models(self, request: Request) -> Response:
        """The model that is loaded."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "dit360"} for name in self._models]
        return JSONResponse({"object": "list", "data": data})

    @_told
    async def generations(self, request: Request) -> Response:
        """Pictures from a prompt."""
        told = await _json(request)
        return await self._pictures(await run_in_threadpool(theirs.asked_of, told, self._models))

    @_told
    async def edits(self, request: Request) -> Response:
        """A picture, of which a part is made anew, or all a little."""
        async with request.form(max_files=10, max_fields=100) as form:
            pictures, mask, values = [], None, {}
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    values[name] = value
                    continue
                upload = Upload(data=await value.read(), ending=ending_of(value.filename or ""))
                if name in ("image", "image[]"):
                    pictures.append(upload)
                elif name == "mask" and mask is None:
                    mask = upload
                else:
                    raise InputError(f"there is no file {name!r:.80}; take image and mask.")
        files = await run_in_threadpool(theirs.edit_files, pictures, mask)
        return await self._pictures(theirs.asked_of(theirs.plain_values(values), self._models, files))

    async def _pictures(self, asked: theirs.Asked) -> Response:
        jobs = await self._take_all(asked.wanted)
        while not all(job.over for job in jobs):
            await asyncio.sleep(POLL)
        for job in jobs:
            if job.status != "done":
                kind = "invalid_request_error" if job.wrong else "server_error"
                return _wrong(plain(job.error) or "The picture was cancelled.", 400 if job.wrong else 500, kind=kind)
        found = [await run_in_threadpool(self._data, job) for job in jobs]
        seeds = [job.settings["seed"] for job in jobs]
        settings = jobs[0].settings
        return JSONResponse(
            theirs.answered(
                [data for data in found if data is not None], seeds, asked,
                model=self._models[0], size=(settings["width"], settings["height"]),
            )
        )  # fmt: skip


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _wrong({404: "There is nothing at this address.", 405: "This address takes another method."}.get(
        error.status_code, str(error.detail)), error.status_code)  # fmt: skip


async def _broke(request: Request, error: Exception) -> Response:
    log.error("An answer to %s failed.", request.url.path, exc_info=error)
    return _wrong("The server failed; its log tells why.", 500, kind="server_error")


async def _json(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise InputError("the request is no JSON; set its Content-Type to application/json.")
    body = await request.body()
    try:
        return await run_in_threadpool(json.loads, body)  # a large one takes seconds, in which others are answered
    except (ValueError, RecursionError):
        raise InputError("the request is no JSON.") from None


@functools.cache
def _options() -> list[dict[str, Any]]:
    """The options of a picture, for the page."""
    found = []
    for subject, names in SUBJECTS.items():
        for cls in OF_A_PICTURE:
            for name, option in options_of(cls).items():
                if name not in names or name == "prompt":
                    continue
                found.append(
                    {
                        "name": name,
                        "subject": subject,
                        "usual": name in USUAL,
                        "help": plain(option.help),
                        "kind": option.kind.__name__,
                        "choices": list(option.choices or ()),
                        "minimum": option.minimum,
                        "maximum": option.maximum,
                        "default": option.default if isinstance(option.default, str | int | float | bool) else None,
                        "unset": option.unset or "",
                    }
                )
    return found


def _shown(settings: Any) -> dict[str, Any]:
    """What the page uses of a picture's settings: files come from anywhere."""
    requested, used = (settings.get(name) for name in ("requested", "used"))
    return {
        "prompt": _text(settings.get("prompt")),
        "negative_prompt": _text(settings.get("negative_prompt")),
        "requested": {
            _text(str(name)): _text(value) if isinstance(value, str) else value
            for name, value in (requested.items() if isinstance(requested, dict) else ())
            if isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))
        },
        "model": _text(used.get("model")) if isinstance(used, dict) else "",
        # As text: JavaScript rounds such numbers.
        "seed": str(used["seed"]) if isinstance(used, dict) and isinstance(used.get("seed"), int) else "",
    }


def _text(value: Any) -> str:
    """Text that can be sent: half a character in a file's metadata cannot."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _small(panorama: Panorama) -> bytes:
    image = panorama.image.copy()
    image.thumbnail((384, 192))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _view_of(jpeg: bytes, prompt: str) -> bytes:
    size = Image.open(io.BytesIO(jpeg)).size
    return page_of(jpeg, size, MADE, About(title="Being made", caption=prompt, rests=True))


def _view(panorama: Panorama) -> bytes:
    return page_of(panorama.image, panorama.size, panorama.pose, attrs.evolve(about(panorama), rests=True))
