"""Connections that say nothing are closed: they would take the place of others, without a token."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds within which a request's headers are here as a whole."""


class Impatient(H11Protocol):
    """uvicorn's own HTTP/1.1, by a library whose bound on headers holds, with a time for them.

    uvicorn has a time for the pause between two requests of a connection, and none for the first.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """They say something."""
        super().data_received(data)
        if self._asked():
            self._rest()
        elif self._ends is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        self._rest()
        super().connection_lost(exc)

    def _asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._ends = self.loop.call_later(PATIENCE, self._end)

    def _rest(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None

    def _end(self) -> None:
        self._ends = None
        if not self._asked():
            self.transport.close()
