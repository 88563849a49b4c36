"""Masks that the viewer painted: grey pictures in ComfyUI's input folder."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from dit360_core.errors import InputError

if TYPE_CHECKING:
    import torch


def file_of(name: str) -> Path:
    """The file that a mask's name means to ComfyUI: ``folder/name.png``, in its input folder, or with `` [output]``.

    Raises InputError if there is none, or if the name would leave ComfyUI's folders.
    """
    import folder_paths

    pure = (PurePosixPath(name), PureWindowsPath(name))
    if any(path.is_absolute() or path.drive or ".." in path.parts for path in pure):
        raise InputError(f"A mask of {name!r} would leave ComfyUI's folder; give a file in its input folder.")
    file = Path(folder_paths.get_annotated_filepath(name))
    if not file.is_file():
        raise InputError(f"The mask {name} is not in ComfyUI's input folder; paint it again, or empty the field.")
    return file


def fingerprint(name: str) -> str:
    """Of the bytes of a mask's file; "" where there is none."""
    if not name:
        return ""
    try:
        return hashlib.sha256(file_of(name).read_bytes()).hexdigest()
    except (InputError, OSError):
        return ""  # told when the node runs


def read_mask(name: str, width: int, height: int) -> torch.Tensor:
    """``[1, height, width]``, 1 where the file is white; all 0 without a name. Of another size it is made to fit.

    Raises InputError if the file is missing, no picture, or not twice as wide as high.
    """
    import numpy as np
    import torch
    from dit360_core.panorama.masks import as_mask
    from PIL import Image

    if not name:
        return torch.zeros(1, height, width)
    file = file_of(name)
    try:
        with Image.open(file) as opened:
            image: Image.Image = opened
            if image.width != 2 * image.height:
                raise InputError(
                    f"The mask {name} is {image.width}×{image.height}, but a panorama's mask is twice as wide as high."
                )
            if image.mode.startswith("F"):
                raise InputError(f"The mask {name} holds floating-point numbers; save it with 8 or 16 bits.")
            if image.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255
                image = as_mask(image)
            # What is transparent is not painted.
            clear = Image.new("RGBA", image.size, (0, 0, 0, 255))
            clear.alpha_composite(image.convert("RGBA"))
            grey = clear.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"The mask {name} cannot be read ({error}); save it as PNG.") from error
    if grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(grey)).float().div(255)[None]
