"""``python comfy_previews.py WS_URL FOLDER``: keeps every preview that a ComfyUI sends to a client, until it is told to
end by a line on standard input. Runs in ComfyUI's Python, which has aiohttp."""

import asyncio
import struct
import sys
from pathlib import Path

import aiohttp

PREVIEWS = {1: 8, 4: None}
"""Binary events that are previews, with the length of what is before the picture; None: told by the next four bytes."""


async def listen(url: str, folder: Path) -> None:
    count = 0
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        print("listening", flush=True)
        ends = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        while not ends.done():
            try:
                message = await socket.receive(timeout=0.2)
            except TimeoutError:
                continue
            if message.type != aiohttp.WSMsgType.BINARY:
                continue
            (kind,) = struct.unpack(">I", message.data[:4])
            if kind in PREVIEWS:
                start = PREVIEWS[kind] or 8 + struct.unpack(">I", message.data[4:8])[0]
                count += 1
                (folder / f"{count:03}.jpg").write_bytes(message.data[start:])


asyncio.run(listen(sys.argv[1], Path(sys.argv[2])))
