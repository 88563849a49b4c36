"""The order of our examples in ComfyUI's template browser; ComfyUI lists files as the disk has them, in no order."""

from __future__ import annotations

import json
import logging
from typing import Any

log = logging.getLogger("dit360")

_LISTS = ("/workflow_templates", "/api/workflow_templates")


def in_order(listed: dict[str, list[str]], pack: str) -> dict[str, list[str]]:
    """ComfyUI's answer, pack → names of examples, with those of one pack sorted; "(start here)" comes first so."""
    return {name: sorted(examples) if name == pack else examples for name, examples in listed.items()}


def register(pack: str) -> None:
    """Has ComfyUI's server put the examples of this pack (its folder in custom_nodes) in order."""
    try:
        from aiohttp import web
        from server import PromptServer
    except ImportError:
        return  # a ComfyUI with another server

    @web.middleware  # type: ignore[untyped-decorator]
    async def sort_ours(request: Any, handler: Any) -> Any:
        response = await handler(request)
        if request.path in _LISTS and isinstance(response, web.Response) and response.status == 200:
            try:
                listed = json.loads(response.text or "")
                return web.json_response(in_order(listed, pack))
            except Exception as error:  # noqa: BLE001 (the list as it was is as good, but for its order)
                log.debug("The examples keep their order: %s", error)
        return response

    instance = getattr(PromptServer, "instance", None)
    if instance is not None and not instance.app.frozen:
        instance.app.middlewares.append(sort_ours)
