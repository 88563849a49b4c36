"""Flat pictures and the sphere: what a camera sees of a panorama, and where a camera's picture lies on it.

Directions are unit vectors (x, y, z): x to the right, y up, z ahead, at the middle of the panorama. A pixel is a small
square, so the first one's centre lies half a pixel inside the picture's edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F

from dit360_core.errors import InputError
from dit360_core.sphere.camera import Camera

_BAND = 2**21
"""Samples of a band of rows."""
MOST_SAMPLES = 8
"""Along either side of a pixel: more would cost without being seen."""
FINER = 2
"""Pixels of a camera's picture along one of a panorama that are sampled; of finer ones, as many are averaged before."""


def rotation(camera: Camera) -> torch.Tensor:
    """``(3, 3)`` float64: from a camera's axes to the sphere's."""
    yaw, pitch, roll = (math.radians(math.remainder(angle, 360)) for angle in (camera.yaw, camera.pitch, camera.roll))
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    about_up = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    about_right = torch.tensor([[1, 0, 0], [0, cp, sp], [0, -sp, cp]], dtype=torch.float64)
    about_ahead = torch.tensor([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    return about_up @ about_right @ about_ahead


def rays(camera: Camera, samples: int = 1, rows: tuple[int, int] | None = None) -> torch.Tensor:
    """``(height·samples, width·samples, 3)`` float64: the directions that a camera's pixels look in.

    samples: along either side of a pixel.
    rows: of pixels, from the first up to before the second; None: all.
    """
    first, last = (0, camera.height) if rows is None else rows
    x = centres(camera.width, samples) - camera.width / 2
    y = first + centres(last - first, samples) - camera.height / 2
    plane = torch.stack(
        [
            (x * camera.pixel).expand(len(y), -1),
            (-y * camera.pixel)[:, None].expand(-1, len(x)),
            torch.ones(len(y), len(x), dtype=torch.float64),
        ],
        dim=-1,
    )
    return F.normalize(plane, dim=-1) @ rotation(camera).T


def project(camera: Camera, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where directions are in a camera's picture: ``(…, 2)`` in pixels from its corner, and whether they are in it.

    seen: ``(…, 3)`` float64, the directions.
    """
    own = seen @ rotation(camera)
    ahead = own[..., 2] > 1e-9
    depth = torch.where(ahead, own[..., 2], torch.ones_like(own[..., 2]))
    x = own[..., 0] / depth / camera.pixel + camera.width / 2
    y = -own[..., 1] / depth / camera.pixel + camera.height / 2
    inside = ahead & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    return torch.stack([x, y], dim=-1), inside


def directions(height: int, samples: int = 1) -> torch.Tensor:
    """``(height·samples, 2·height·samples, 3)`` float64: the directions of a panorama's pixels.

    height: of the panorama, in pixels.
    samples: along either side of a pixel.
    """
    return at(centres(height, samples)[:, None], centres(2 * height, samples)[None], height)


def at(rows: torch.Tensor, columns: torch.Tensor, height: int) -> torch.Tensor:
    """``(…, 3)`` float64: the directions of places in a panorama.

    rows, columns: in pixels from its upper and its left edge.
    height: of the panorama, in pixels.
    """
    latitude, longitude = (0.5 - rows.double() / height) * math.pi, (columns.double() / height - 1) * math.pi
    around = torch.cos(latitude)
    up = torch.sin(latitude) + torch.zeros_like(longitude)
    return torch.stack([around * torch.sin(longitude), up, around * torch.cos(longitude)], dim=-1)


def place_of(seen: torch.Tensor, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(…,)`` each: the row and the column of directions in a panorama, in pixels from its upper and its left edge.

    seen: ``(…, 3)``, the directions.
    height: of the panorama, in pixels.
    """
    column = (torch.atan2(seen[..., 0], seen[..., 2]) / math.pi + 1) * height
    return (0.5 - torch.asin(seen[..., 1].clamp(-1, 1)) / math.pi) * height, column


def view(panorama: torch.Tensor, camera: Camera) -> torch.Tensor:
    """What a camera sees: ``(C, height, width)``, in the dtype of the panorama.

    panorama: ``(C, H, 2H)`` of floating-point numbers; longitude wraps, and beyond a pole lies the other side.
    """
    # A pixel that covers several of the panorama's is the mean of as many samples, or it would shimmer.
    samples = samples_for(camera.pixel * panorama.shape[-2] / math.pi)
    return drawn(panorama, _bands(camera, samples), samples)


def _bands(camera: Camera, samples: int) -> Iterator[torch.Tensor]:
    """The directions of a camera's samples, in bands of rows."""
    return (rays(camera, samples, band) for band in bands(camera.height, camera.width * samples**2))


def drawn(panorama: torch.Tensor, looking: Iterable[torch.Tensor], samples: int = 1) -> torch.Tensor:
    """A picture whose pixels look in any directions: ``(C, height, width)``, in the dtype of the panorama.

    panorama: ``(C, H, 2H)`` of floating-point numbers; longitude wraps, and beyond a pole lies the other side.
    looking: the directions of its samples in bands of whole pixels from the top, ``(rows·samples, width·samples, 3)``
    each.
    samples: along either side of a pixel, which is their mean.
    """
    edged, height = _beyond_the_edges(panorama), panorama.shape[-2]
    found = []
    for band in looking:
        row, column = place_of(band, height)
        places = torch.stack([column + MARGIN, row + MARGIN], dim=-1)
        seen = sample(edged, places.reshape(-1, 2)).T.reshape(-1, *places.shape[:2])
        found.append(F.avg_pool2d(seen[None], samples)[0].to(panorama.dtype))
    return torch.cat(found, dim=1)


def onto_sphere(picture: torch.Tensor, camera: Camera, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a camera's picture lies on a panorama: ``(C, height, 2·height)``, and how much of each pixel it covers.

    picture: ``(C, h, w)`` of the camera's size.
    height: of the panorama, in pixels.

    The second is ``(height, 2·height)`` in 0 … 1. Where it is 0, so is the first; elsewhere it is the mean of what lies
    on the pixel, not darkened by what does not.
    """
    if tuple(picture.shape[-2:]) != (camera.height, camera.width):
        raise InputError(
            f"The picture has {picture.shape[-1]}×{picture.shape[-2]} pixels, and its camera {camera.width}×"
            f"{camera.height}."
        )
    dtype = picture.dtype
    picture, shrunk = _no_finer(picture, math.pi / height / camera.pixel / FINER)
    samples = samples_for(math.pi / height / camera.pixel * float(shrunk.max()), least=2)
    edged = extended(picture)
    near = _near(camera, height)
    total, covered = torch.zeros(len(near), picture.shape[0]), torch.zeros(len(near))
    rows, columns = near // (2 * height), near % (2 * height)
    for down in range(samples):
        for across in range(samples):
            seen = at(rows + (down + 0.5) / samples, columns + (across + 0.5) / samples, height)
            places, inside = project(camera, seen)
            total[inside] += sample(edged, places[inside] * shrunk + MARGIN)
            covered[inside] += 1
    shown = torch.zeros(2 * height**2, picture.shape[0])
    share = torch.zeros(2 * height**2)
    shown[near] = total / covered.clamp(min=1)[:, None]
    share[near] = covered / samples**2
    return shown.T.reshape(-1, height, 2 * height).to(dtype), share.reshape(height, 2 * height)


def _no_finer(picture: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture that is smaller by a factor, if that is worth it, and ``(2,)``: its size in units of what it was.

    A photo of many megapixels would be sampled 64 times for each pixel of the panorama, and blurred once is as good.
    """
    high, wide = picture.shape[-2:]
    if factor < 1.25:
        return picture, torch.ones(2, dtype=torch.float64)
    size = (max(2, round(high / factor)), max(2, round(wide / factor)))
    small = F.interpolate(picture[None].float(), size, mode="bicubic", antialias=True, align_corners=False)[0]
    return small, torch.tensor([size[1] / wide, size[0] / high], dtype=torch.float64)


def _near(camera: Camera, height: int) -> torch.Tensor:
    """``(n,)`` int64: the pixels of a panorama that a camera may see, counted row by row."""
    half = math.hypot(camera.width, camera.height) / 2 * camera.pixel
    most = math.cos(min(math.pi, math.atan(half) + 2 * math.pi / height))
    # Single numbers are near enough, since a pixel's width is allowed for.
    ahead = rotation(camera)[:, 2].float()
    columns, seen = centres(2 * height, 1)[None], []
    for top, end in bands(height, 2 * height):
        looking = at(top + centres(end - top, 1)[:, None], columns, height).float()
        seen.append((looking @ ahead >= most).flatten().nonzero().flatten() + top * 2 * height)
    return torch.cat(seen)


MARGIN = 3
"""Pixels around a picture from which bicubic interpolation at its edges takes what is missing."""


def samples_for(pixels: float, least: int = 1) -> int:
    """Along either side, for a pixel that is as wide as so many of the other picture's."""
    return min(MOST_SAMPLES, max(least, math.ceil(pixels)))


def bands(height: int, samples: int) -> Iterator[tuple[int, int]]:
    """(first row, the one after the last) of bands of rows from the top, so that what they need on the way stays small.

    height: rows in all.
    samples: of one row.
    """
    rows = max(1, _BAND // samples)
    return ((top, min(height, top + rows)) for top in range(0, height, rows))


def centres(size: int, samples: int) -> torch.Tensor:
    """``(size·samples,)`` float64: centres of samples, in pixels from the edge."""
    return (torch.arange(size * samples, dtype=torch.float64) + 0.5) / samples


def _beyond_the_edges(panorama: torch.Tensor) -> torch.Tensor:
    """With a margin on each side: the other end in longitude, and beyond a pole the rows on the other side."""
    width = panorama.shape[-1]
    turned = panorama.roll(width // 2, -1)
    tall = torch.cat([turned[:, :MARGIN].flip(1), panorama, turned[:, -MARGIN:].flip(1)], dim=1)
    return torch.cat([tall[..., -MARGIN:], tall, tall[..., :MARGIN]], dim=2)


def extended(picture: torch.Tensor) -> torch.Tensor:
    """With a margin on each side in which ramps go on, so that half a pixel beyond the outermost centres is known."""
    for side in (-1, -2):
        first, last = picture.narrow(side, 0, 1), picture.narrow(side, picture.shape[side] - 1, 1)
        more = min(1, picture.shape[side] - 1)
        before = first - picture.narrow(side, more, 1)
        behind = last - picture.narrow(side, picture.shape[side] - 1 - more, 1)
        steps = range(1, MARGIN + 1)
        picture = torch.cat(
            [*(first + n * before for n in reversed(steps)), picture, *(last + n * behind for n in steps)], dim=side
        )
    return picture


def sample(picture: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """``(n, C)`` float32: a picture ``(C, h, w)`` at places ``(n, 2)`` in pixels from its edges, bicubic.

    Keys 1981 with a = −1/2 ("Catmull-Rom"), which keeps straight ramps straight; PyTorch's own has −3/4 and does not.
    """
    channels, high, wide = picture.shape
    pixels = picture.permute(1, 2, 0).reshape(-1, channels).float().contiguous()
    found = torch.empty(len(places), channels)
    for start in range(0, len(places), _AT_ONCE):
        at = places[start : start + _AT_ONCE] - 0.5
        first = at.floor()
        across, down = (_weights(part) for part in (at - first).unbind(-1))
        column, row = ((part.long()[:, None] + torch.arange(-1, 3)) for part in first.unbind(-1))
        taps = row.clamp(0, high - 1)[:, :, None] * wide + column.clamp(0, wide - 1)[:, None, :]
        shares = (down[:, :, None] * across[:, None, :]).float()
        # A weighted sum of rows of a table, as fast as PyTorch has it.
        found[start : start + _AT_ONCE] = F.embedding_bag(
            taps.flatten(1), pixels, per_sample_weights=shares.flatten(1), mode="sum"
        )
    return found


_AT_ONCE = 2**17
"""Samples, so that what they need on the way stays small."""


def _weights(share: torch.Tensor) -> torch.Tensor:
    """``(n, 4)``: of the pixels before, at, after and second after places that lie ``share`` beyond one."""
    t = share[:, None]
    return (
        torch.cat([((2 - t) * t - 1) * t, (3 * t - 5) * t * t + 2, ((4 - 3 * t) * t + 1) * t, (t - 1) * t * t], dim=1)
        / 2
    )
