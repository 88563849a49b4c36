"""Who may come in: this machine's programs that know the token, and the page that was opened with it. Nobody else.

A page of another site, open in the same browser, may send requests to this machine too. It cannot read the token; its
requests name their origin; and where a name of its own is made to point here, they name that as their host.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

MOST = 256 * 2**20
"""Bytes of the largest body: eight photos or an OpenEXR panorama, in base64."""
SHORT = 60.0
"""Seconds for which what lets in once is good."""
MOST_HEADERS, LONGEST_HEADERS = 64, 32 * 1024
"""How many headers a request may have, and their bytes."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
)
_PAGE = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)


class _TooLarge(HTTPException):
    def __init__(self) -> None:
        super().__init__(413, f"The request has over {MOST >> 20} MiB.")


class Doors:
    """Middleware of ASGI: refuses what is not for this server, bounds bodies, and sets headers on every answer."""

    def __init__(self, app: App, *, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._once, self._until = "", 0.0
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{name}:{port}" for name in names}
        self._origins = {f"http://{host}" for host in self._hosts}
        self.cookie = f"dit360-{port}"

    def once(self) -> str:
        """What lets a browser in a single time, within a minute, as the token does.

        It is given to a browser that is started, whose command line other users of this machine can see.
        """
        self._once, self._until = secrets.token_urlsafe(24), time.monotonic() + SHORT
        return self._once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _headers(scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await self._answer(send, *refused)
            return
        if scope["path"] == "/" and (given := self._given(scope)) is not None:
            await self._let_in(send, given)
            return
        if not self._known(headers):
            await self._answer(
                send, 401, "This needs the token that 'dit360 serve' tells; open the address that it shows."
            )
            return
        await self._pass_on(scope, receive, send)

    # ------------------------------------------------------------------------------------------------------- looking

    def _refused(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        """(status, why) of a request that is not for this server."""
        if sum(map(len, headers.values())) > MOST_HEADERS or _bytes(scope) > LONGEST_HEADERS:
            return 431, "The request has too many headers, or too long ones."
        if len(headers.get("host", ())) != 1 or headers["host"][0].lower() not in self._hosts:
            return 421, "This server answers for localhost only."
        origins = headers.get("origin", [])
        if any(origin.lower() not in self._origins for origin in origins):
            return 403, "This server answers no page of another site."
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", ())) and (
            scope["method"] != "GET" or scope["path"] != "/"
        ):
            return 403, "This server answers no page of another site."
        lengths = headers.get("content-length", [])
        if any(not length.isascii() or not length.isdigit() for length in lengths) or len(set(lengths)) > 1:
            return 400, "The request does not say how long it is."
        if lengths and int(lengths[0]) > MOST:
            return 413, f"The request has over {MOST >> 20} MiB."
        return None

    def _given(self, scope: Scope) -> str | None:
        """The token in the address of the page; None: there is none."""
        try:
            found = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20).get("token")
        except ValueError:
            return ""
        return found[0] if found else None

    def _known(self, headers: dict[str, list[str]]) -> bool:
        for told in headers.get("authorization", ()):
            kind, _, value = told.partition(" ")
            if kind.lower() == "bearer" and self._is_token(value.strip()):
                return True
        for told in headers.get("cookie", ()):
            # Not by http.cookies, which stops at the first that it cannot read: other programs on this machine set
            # cookies for all its ports.
            for one in told.split(";"):
                name, _, value = one.strip().partition("=")
                if name == self.cookie and self._is_token(value.strip('"')):
                    return True
        return False

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self._token.encode())

    # ----------------------------------------------------------------------------------------------------- answering

    async def _let_in(self, send: Send, given: str) -> None:
        """The browser keeps the token, and its address no longer shows it."""
        first = bool(self._once) and hmac.compare_digest(given.encode(), self._once.encode())
        if first:
            first, self._once = time.monotonic() < self._until, ""
        if not first and not self._is_token(given):
            await self._answer(
                send, 401, "The token is not that of this server; open the address that 'dit360 serve' shows."
            )
            return
        kept = f"{self.cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict".encode()
        await self._answer(send, 303, "", (b"location", b"/"), (b"set-cookie", kept))

    async def _answer(self, send: Send, status: int, why: str, *headers: tuple[bytes, bytes]) -> None:
        body = json.dumps({"error": {"message": why, "type": "refused", "param": None, "code": None}}).encode()
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": [*own, *_HEADERS]})
        await send({"type": "http.response.body", "body": body})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST:
                raise _TooLarge
            return message

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                more = [*_HEADERS, (b"content-security-policy", _PAGE), (b"cache-control", b"no-store")]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in own)]
            await send(message)

        await self._app(scope, bounded, dressed)


def _bytes(scope: Scope) -> int:
    return sum(len(name) + len(value) for name, value in scope["headers"])


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found
