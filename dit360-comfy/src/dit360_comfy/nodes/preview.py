"""Equirect360Preview: look around in a panorama, in the node, and paint a mask."""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from dit360_core.errors import InputError
from dit360_core.panorama.picture import Panorama
from dit360_core.system.atomic import write_atomic

from dit360_comfy.masks import file_of, fingerprint, read_mask
from dit360_comfy.nodes.base import Node
from dit360_comfy.settings import recall

if TYPE_CHECKING:
    import torch
    from PIL import Image

#: The name under which the front end is told of the pictures. Not ``images``, which it would also draw flat.
UI_KEY = "dit360_panoramas"


class Equirect360Preview(Node):
    """ComfyUI's node of that id. Its viewer is ``node_pack/web/dit360.js``."""

    DISPLAY_NAME = "Preview 360° Panorama"
    DESCRIPTION = (
        "Look around in panoramas inside the node: drag, scroll to zoom, F for full screen. Each picture is a file "
        "with the GPano metadata that makes other viewers open it as 360°, and temporary unless you choose to save it. "
        "P paints a mask on the sphere, which the next run gives to other nodes."
    )
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("images", "mask")
    OUTPUT_TOOLTIPS = (
        "The panoramas, as they came.",
        "What was painted, 1 = to be made anew, of the panoramas' size; one for all pictures of a batch, and all 0 "
        "where nothing was.",
    )
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": (
                    "IMAGE",
                    {"tooltip": "Equirectangular panoramas, twice as wide as high. Each picture of a batch is shown."},
                ),
            },
            "optional": {
                "save": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "label_on": "to the output folder",
                        "label_off": "temporary",
                        "tooltip": "Keep the pictures in ComfyUI's output folder, or only until ComfyUI starts again.",
                    },
                ),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "dit360",
                        "tooltip": "How the files' names begin; a number follows. May name a subfolder (walks/harbour) "
                        "and hold what SaveImage knows, such as %date:yyyy-MM-dd% or %width%.",
                    },
                ),
                "format": (
                    ["jpg", "png", "webp"],
                    {
                        "default": "jpg",
                        "tooltip": "jpg: quickly written, opened as 360° by most sites and viewers, but ComfyUI "
                        "reads no workflow from it. png: lossless and large, holds the workflow, so that dragging it "
                        "into ComfyUI opens the graph. webp: smallest, slowest to write, holds the workflow, at most "
                        "16383 pixels wide.",
                    },
                ),
                "quality": (
                    "INT",
                    {
                        "default": 95,
                        "min": 1,
                        "max": 100,
                        "step": 1,
                        "tooltip": "Of jpg and webp, 1 (smallest file) to 100 (best picture); png has no loss.",
                    },
                ),
                "mask": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "The painted mask, a file in ComfyUI's input folder: the brush in the viewer fills "
                        "this in. Any grey picture twice as wide as high does, white being what is made anew.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"},
        }

    _written: ClassVar[dict[str, tuple[str, list[Path]]]] = {}
    """Node's id → what IS_CHANGED says of it, and the files of its last run."""

    @classmethod
    def IS_CHANGED(cls, unique_id: str = "", mask: str | None = "", **_: Any) -> str:
        """Another answer than before once files of the last run are gone, which ComfyUI would take for its result, or
        once the mask's file is another."""
        told, paths = cls._written.get(unique_id, ("", []))
        if any(not path.is_file() for path in paths):
            told = secrets.token_hex(8)
            cls._written[unique_id] = (told, [])
        return told + fingerprint(mask or "")

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> None:
        if given.get("mask"):
            file_of(given["mask"])

    def run(
        self,
        images: torch.Tensor,
        save: bool = False,
        filename_prefix: str = "dit360",
        format: str = "jpg",
        quality: int = 95,
        mask: str = "",
        prompt: object = None,
        extra_pnginfo: Mapping[str, object] | None = None,
        unique_id: str = "",
    ) -> dict[str, Any]:
        """Writes every picture of the batch and tells the front end where they are.

        images: ``[B, H, W, C]``, 0 … 1, W = 2·H; the first three channels count, and one channel is grey. The other
        parameters are the inputs of the node.

        Returns ``{"ui": {UI_KEY: [{"filename", "subfolder", "type", "width", "height"}, …]}, "result": …}``, the result
        being the images and the mask, ``[1, H, W]``.

        Raises InputError before anything is written if the pictures are no panoramas, hold numbers that are no colours,
        if the mask is none, or if a name would leave ComfyUI's folder; Dit360Error if writing fails. Between two
        pictures ComfyUI's own exception ends it when the user asked for that.
        """
        from comfy.cli_args import args
        from comfy.model_management import throw_exception_if_processing_interrupted

        height, width = _check(images)
        painted = read_mask(mask, width, height)
        place = _place(save, filename_prefix, width, height)
        texts = {} if args.disable_metadata else _texts(prompt, extra_pnginfo)
        told, written = [], []
        for number, (image, settings) in enumerate(zip(_pictures(images), recall(images), strict=True)):
            throw_exception_if_processing_interrupted()
            name = f"{place.name.replace('%batch_num%', str(number))}_{place.counter + number:05}_.{format}"
            path = Panorama(image, settings).save(place.folder / name, quality=quality)
            if texts and format in _EMBED:
                _embed(path, _EMBED[format], texts)
            written.append(path)
            file = {"filename": name, "subfolder": place.subfolder, "type": place.type}
            told.append({**file, "width": width, "height": height})
        self._written[unique_id] = (self._written.get(unique_id, ("",))[0], written)
        return {"ui": {UI_KEY: told}, "result": (images, painted)}


def _check(images: torch.Tensor) -> tuple[int, int]:
    """(height, width) of a batch that is one of panoramas. Raises InputError if it is not."""
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[3] not in (1, 3, 4):
        raise InputError(
            f"Equirect360Preview was given images of shape {tuple(images.shape)}, which are no pictures; "
            "connect an IMAGE, [batch, height, width, channels] with 1, 3 or 4 channels."
        )
    height, width = images.shape[1:3]
    if width != 2 * height:
        raise InputError(
            f"A panorama is twice as wide as high, but this picture is {width}×{height}; "
            "crop, pad or resize it to 2:1 first, as Equirect 360 Process does."
        )
    # Half precision in a decoder that overflows; it would be a black picture without a word.
    if not bool(images.isfinite().all()):
        raise InputError(
            "The picture holds numbers that are no colours (NaN or infinite), as a decoder that overflows gives them; "
            "decode in bf16 or fp32."
        )
    return height, width


def _pictures(images: torch.Tensor) -> Iterator[Image.Image]:
    """RGB pictures of 8 bits a channel, one by one: a batch of large ones need not be in memory twice."""
    from PIL import Image

    for pixels in images:
        colours = pixels[..., :3].detach().float().clamp(0, 1).mul(255).round().byte().cpu()
        yield Image.fromarray(colours.expand(-1, -1, 3).contiguous().numpy())


# ------------------------------------------------------------------------------------------------- where


@attrs.frozen
class _Place:
    """Where the files of one run go: ``folder/name_counter_.suffix``; subfolder and type are for ComfyUI's /view."""

    folder: Path
    name: str
    counter: int
    subfolder: str
    type: str


def _place(save: bool, prefix: str, width: int, height: int) -> _Place:
    """ComfyUI's own choice of names, so that the numbers go on where SaveImage's do.

    Raises InputError if the prefix names no file or would leave ComfyUI's folder.
    """
    import folder_paths

    path = os.path.normpath(prefix)
    if not prefix.strip() or os.path.basename(path) in ("", ".", ".."):
        raise InputError(f"A filename_prefix of {prefix!r} names no file; give a name such as dit360.")
    # ComfyUI refuses these too, in several lines of which none says what to do.
    if os.path.isabs(path) or os.path.splitdrive(path)[0] or path.split(os.sep)[0] == os.pardir:
        raise InputError(
            f"A filename_prefix of {prefix!r} would leave ComfyUI's folder; give a name, or subfolder/name within it."
        )
    if save:
        root, kind = folder_paths.get_output_directory(), "output"
    else:
        # Of its own for each run: a browser may still hold what had the same name before the folder was emptied.
        root, kind, prefix = folder_paths.get_temp_directory(), "temp", f"{path}_temp_{secrets.token_hex(3)}"
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return _Place(Path(folder), name, counter, subfolder, kind)


# ------------------------------------------------------------------------------------------------- the workflow


def _texts(prompt: object, extra_pnginfo: Mapping[str, object] | None) -> dict[str, str]:
    """Name → JSON in ASCII of what ComfyUI reads a graph from: ``prompt``, ``workflow`` and what else it was given."""
    texts = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return texts | {name: json.dumps(value) for name, value in (extra_pnginfo or {}).items()}


def _embed(path: Path, insert: Callable[[bytes, Mapping[str, str]], bytes], texts: Mapping[str, str]) -> None:
    """Puts texts into a picture file without decoding it; the file is whole at every moment."""
    data = insert(path.read_bytes(), texts)
    with write_atomic(path, force=True) as file:
        file.write(data)


def _png_with(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG file with tEXt chunks (PNG specification, 11.3.3.2), which is where SaveImage puts them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = 8 + 12 + 13  # behind the signature and IHDR, which must come first
    chunks = (chunk(b"tEXt", f"{name}\0{text}".encode("latin-1", "replace")) for name, text in texts.items())
    return data[:start] + b"".join(chunks) + data[start:]


def _webp_with(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A WebP file (of the extended format) with an EXIF chunk of ``name:text`` entries, where the front end looks.

    The tags are those of SaveAnimatedWEBP: the prompt is the camera's model, all else goes downwards from its maker.
    """
    from PIL import Image

    exif, tag = Image.Exif(), 0x010F
    for name, text in texts.items():
        if name == "prompt":
            exif[0x0110] = f"{name}:{text}"
        else:
            exif[tag] = f"{name}:{text}"
            tag -= 1
    content = exif.tobytes().removeprefix(b"Exif\0\0")  # a mark of JPEG's segment, not of WebP's chunk
    chunk = b"EXIF" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    at = _chunk_at(data, b"XMP ")  # the specification wants EXIF before it
    flags = bytes([data[20] | 0x08])  # of VP8X, which is the first chunk: "there is EXIF"
    body = data[12:20] + flags + data[21:at] + chunk + data[at:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _chunk_at(data: bytes, kind: bytes) -> int:
    """Where the first chunk of that kind begins in a WebP file."""
    at = 12
    while data[at : at + 4] != kind:
        (length,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + length + length % 2
    return at


# Not jpg: the front end looks for no workflow there, and a segment of EXIF holds no more than 64 KiB.
_EMBED = {"png": _png_with, "webp": _webp_with}

NODES: dict[str, type[Any]] = {"Equirect360Preview": Equirect360Preview}
