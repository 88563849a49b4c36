"""Land with height, seen from its middle: what rises above the horizon, hidden by what is nearer.

For every column of the picture the ground is followed outward. A point is seen if nothing nearer rises to the same
elevation; so the first distance whose running maximum of elevation reaches a ray's is the one that the ray hits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Height = Callable[[Tensor], Tensor]
"""Points (..., 3) with y = 0, in metres, to heights (...) above the eye's horizon, in metres."""


@dataclass(frozen=True)
class Seen:
    """What the rays of the upper half hit. All (h, W); `mask` is soft at the outline, the rest is of no use outside.

    mask: 0 to 1. distance: metres. place: (h, W, 3), y the height. normal: unit vectors (h, W, 3).
    """

    mask: Tensor
    distance: Tensor
    place: Tensor
    normal: Tensor


def look(azimuth: Tensor, elevation: Tensor, height: Height, near: float, far: float, samples: int = 144) -> Seen:
    """Follows the ground from `near` to `far` metres along each azimuth.

    azimuth (W,) and elevation (h, 1) in radians, from high to 0.
    """
    rows, columns = elevation.shape[0], azimuth.shape[0]
    radii = near * (far / near) ** torch.linspace(0, 1, samples, device=azimuth.device)
    circle = torch.stack((azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()), -1)
    points = radii.view(-1, 1, 1) * circle
    heights = height(points)
    slope_r = torch.gradient(heights, spacing=(radii.log(),), dim=0)[0] / radii.view(-1, 1)
    step = 2 * math.pi / columns
    slope_a = (heights.roll(-1, 1) - heights.roll(1, 1)) / (2 * step * radii.view(-1, 1))
    angle = torch.atan2(heights, radii.view(-1, 1))
    reach = angle.cummax(0).values.T.contiguous()
    wanted = elevation.view(1, -1).expand(columns, -1).contiguous()
    index = torch.searchsorted(reach, wanted)
    after = index.clamp(max=samples - 1)
    before = (after - 1).clamp(min=0)
    low, high = reach.gather(1, before), reach.gather(1, after)
    part = ((wanted - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)

    def at(values: Tensor) -> Tensor:
        across = values.T.contiguous()
        return torch.lerp(across.gather(1, before), across.gather(1, after), part).T

    distance = at(radii.view(-1, 1).expand(-1, columns))
    along, aside = at(slope_r), at(slope_a)
    flat = circle.expand(rows, columns, 3)
    side = torch.stack((azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()), -1)
    normal = -along.unsqueeze(-1) * flat - aside.unsqueeze(-1) * side
    normal = normal + torch.tensor([0.0, 1.0, 0.0], device=azimuth.device)
    place = distance.unsqueeze(-1) * flat
    place = place + (distance * elevation.tan()).unsqueeze(-1) * torch.tensor([0.0, 1.0, 0.0], device=azimuth.device)
    pixel = math.pi / (2 * rows)
    mask = ((reach[:, -1].view(1, -1) - elevation) / pixel + 0.5).clamp(0, 1)
    return Seen(mask, distance, place, torch.nn.functional.normalize(normal, dim=-1))
