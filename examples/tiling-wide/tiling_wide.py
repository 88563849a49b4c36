"""One piece, with some columns of either edge copied over to the other before and cut off after."""

from dit360_core.plugins import Reason, Tiling, hookimpl, setting


class Wide:
    def __init__(self, settings):
        self.margin = max(1, settings.tile_overlap // 8)  # columns of latents, eight pixels each

    def decode(self, vae, latents):
        m, w = self.margin, latents.shape[3]
        wide = latents[..., [i % w for i in range(-m, w + m)]]
        return vae.decode(wide, return_dict=False)[0][..., 8 * m : -8 * m]

    def encode(self, vae, pixels):
        m, w = self.margin, pixels.shape[3]
        wide = pixels[..., [i % w for i in range(-8 * m, w + 8 * m)]]
        return vae.encode(wide, return_dict=False)[0].mode()[..., m:-m]


def unsupported(machine, need):
    if need.mode == "always":
        yield Reason("mode", "it knows one piece only", f"use {setting('tiling_mode', 'auto')}")


@hookimpl
def dit360_tilings():
    yield Tiling(name="wide", api=1, priority=-50, exact=False, unsupported=unsupported, load=Wide)
