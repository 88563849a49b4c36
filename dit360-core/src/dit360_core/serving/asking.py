"""Asks a server that runs for a picture, over HTTP. It imports nothing that is slow."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from dit360_core.errors import Dit360Error, InputError
from dit360_core.serving.identity import VERSION, identity
from dit360_core.serving.place import HOST, Place, told
from dit360_core.serving.wanted import Wanted

SOON = 2.0
"""Seconds within which a server answers that is there."""
LONG = 120.0
"""Seconds without a word after which a server is taken for gone."""

Told = Callable[[Mapping[str, Any]], None]
"""Called with each piece of news of a picture."""


class Gone(Dit360Error):
    """The server does not answer any more, or does not take the request."""


@attrs.frozen(kw_only=True)
class Server:
    """One that answered."""

    place: Place

    def picture(self, wanted: Wanted, follow: Told) -> tuple[bytes, Mapping[str, Any]]:
        """The file of a picture, and what was told of it.

        Raises InputError or Dit360Error, with the server's sentence, for one that cannot be made; Gone.
        """
        news = self._json("POST", "/api/jobs", wanted.as_json())
        number = news["number"]
        try:
            while news["status"] not in ("done", "failed", "cancelled"):
                follow(news)
                news = self._json("GET", f"/api/jobs/{number}?after={news['version']}")
        except BaseException as error:
            if not isinstance(error, Dit360Error):  # Ctrl-C: nobody waits for it any more
                self.forget(number)
            raise
        if news["status"] != "done":
            kind = InputError if news["wrong"] else Dit360Error
            raise kind(str(news["error"] or "The picture was cancelled."))
        return self._ask("GET", f"/api/jobs/{number}/picture"), news

    def preview(self, number: str) -> bytes:
        """A picture as it is expected by now, a JPEG; empty: there is none, or none any more."""
        return self._ask("GET", f"/api/jobs/{number}/preview")

    def forget(self, number: str) -> None:
        """A picture is not wanted, or has been saved: the server need not hold it."""
        with contextlib.suppress(Dit360Error):
            self._json("DELETE", f"/api/jobs/{number}", patience=SOON)

    def state(self) -> Mapping[str, Any]:
        """What it tells of itself. Raises Gone."""
        found: Mapping[str, Any] = self._json("GET", "/api/state", patience=SOON)
        return found

    def _json(self, method: str, path: str, body: Any = None, patience: float = LONG) -> Any:
        try:
            return json.loads(self._ask(method, path, body, patience))
        except ValueError:
            raise Gone("The server's answer cannot be read.") from None

    def _ask(self, method: str, path: str, body: Any = None, patience: float = LONG) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.place.port, timeout=patience)
        headers = {"Authorization": f"Bearer {self.place.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Gone(f"The server at {self.place.address} does not answer ({error}).") from error
        finally:
            connection.close()
        if answer.status < 400:
            return data
        try:
            message = str(json.loads(data)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            raise Gone(f"The server at {self.place.address} answers with {answer.status}.") from None
        # Another server than the one that was told of, one that began anew, or one that does not take so much.
        if answer.status in (401, 404, 413, 421):
            raise Gone(message)
        raise (InputError if answer.status == 400 else Dit360Error)(message)


def server_for(loading: Any) -> tuple[Server | None, str]:
    """(a server that has this model loaded, or None; why not, where one runs that has another).

    loading: LoadOptions of the model that is wanted.
    """
    places, why = told(), ""
    if not places:
        return None, ""
    wanted = identity(loading)
    for place in places:
        server = Server(place=place)
        try:
            state = server.state()
        except Dit360Error:
            continue  # it was killed, and could not take its word back
        if not isinstance(state, Mapping) or state.get("dit360") is not True:
            continue
        if dict(place.loading) == wanted:
            return server, ""
        other = (
            "in another version of dit360" if place.loading.get(VERSION) != wanted[VERSION] else "with other options"
        )
        why = why or f"The server at {place.address} has {state.get('model')} loaded {other}; it is not used."
    return None, why
