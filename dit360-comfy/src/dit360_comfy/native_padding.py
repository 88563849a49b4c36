"""Circular padding around each call of ComfyUI's own FLUX.

The latents are wrapped before the model sees them, the position ids of the columns so added are set to those of the
columns they copy, and what comes out is cropped. A pad token equals its source in content and place, so this is the
same computation as padding once and sampling padded (see :mod:`dit360_core.sphere.grid`), whatever the sampler does
between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from dit360_core.errors import InputError
from dit360_core.sphere.grid import Grid

if TYPE_CHECKING:
    import torch

KEY = "dit360_circular_padding"
_REFERENCES = (None, "offset", "index", "uxo", "index_timestep_zero")
"""Ways of placing reference latents whose ids are known here; all but ``uxo`` ignore the size of the picture."""

_NOT_CALLED = (
    "Another node pack replaces the forward pass of this FLUX model (as TeaCache does) or answers in its place, and "
    "never asks DiT360 Circular Padding for the positions of the padded columns, so the picture would be another one; "
    "remove that pack's node from this model, or DiT360 Circular Padding. ComfyUI's own EasyCache works with it."
)


@attrs.define(eq=False)
class CircularPadding:
    """ComfyUI's wrapper of a diffusion model: ``padding`` token columns on either side during the call."""

    padding: int
    _works_in: Any = attrs.field(default=None, init=False, repr=False)
    """Noise levels of the run in which the model asked for positions."""

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor | None = None,
        guidance: torch.Tensor | None = None,
        ref_latents: list[torch.Tensor] | None = None,
        control: Mapping[str, Any] | None = None,
        transformer_options: Mapping[str, Any] = {},
        **kwargs: Any,
    ) -> torch.Tensor:
        """x ``(B, C, h, w)`` latents, channels to be concatenated included; the result is ``(B, C', h, w)``.

        Raises InputError where tokens would not wrap.
        """
        import torch

        patch = int(executor.class_obj.patch_size)
        grid = self._grid(x, patch)
        method = kwargs.get("ref_latents_method")
        if ref_latents is not None and method not in _REFERENCES:
            raise InputError(
                f"Reference latents are placed by {method!r}, which DiT360 Circular Padding does not know; "
                "choose another method, or remove the padding."
            )
        index = grid.pad_index()
        if control is not None:
            control = _padded_control(control, grid, index)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            kwargs["attention_mask"] = _padded_mask(mask, context.shape[1], grid, index)

        patches = dict(transformer_options.get("patches", {}))
        ids = _Ids(grid, method == "uxo")
        # First, so that the patches of others see the ids that the model will see.
        patches["post_input"] = [ids, *patches.get("post_input", [])]
        columns = self.padding * patch
        wide = torch.cat([x[..., -columns:], x, x[..., :columns]], dim=-1)
        options = {**transformer_options, "patches": patches}
        out: torch.Tensor = executor(wide, timestep, context, y, guidance, ref_latents, control, options, **kwargs)
        sampling = transformer_options.get("sample_sigmas")
        if ids.called:
            self._works_in = sampling
        elif sampling is None or sampling is not self._works_in:
            # EasyCache and the like leave out later calls of a run, which is as well; the first they never do.
            raise InputError(_NOT_CALLED)
        return out[..., columns:-columns]

    def _grid(self, x: torch.Tensor, patch: int) -> Grid:
        width = x.shape[-1]
        if x.ndim != 4 or width % patch:
            raise InputError(
                f"Latents of the shape {tuple(x.shape)} do not wrap: their width must be a multiple of {patch} "
                f"latent columns; choose a width that is a multiple of {8 * patch} pixels."
            )
        if self.padding > width // patch:
            raise InputError(
                f"circular_padding={self.padding} is wider than the picture, which has {width // patch} token columns; "
                "use 1, which DiT360 was trained with."
            )
        return Grid(rows=-(-x.shape[-2] // patch), columns=width // patch, padding=self.padding)


@attrs.define(eq=False)
class _Ids:
    """ComfyUI's ``post_input`` patch: position ids of the pad columns become those of what they copy.

    uxo: reference latents lie behind the picture, so that their ids know its width, which must be that without padding.
    """

    grid: Grid
    uxo: bool
    called: bool = False
    """Whether the model asked for it, which it must."""

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        """img_ids ``(B, image tokens + reference tokens, axes)``, (…, row, column, …) of each token."""
        self.called = True
        ids = given["img_ids"]
        image, references = ids[:, : self.grid.tokens], ids[:, self.grid.tokens :]
        rows = image.unflatten(1, (self.grid.rows, -1))
        # ComfyUI numbers the padded columns from its first, whatever the distance of the numbers is: the ids of the
        # real columns are those at their places among the real ones.
        image = rows[:, :, self.grid.sources().to(ids.device)].flatten(1, 2)
        if self.uxo:
            references = references.clone()
            references[..., 2] -= 2 * self.grid.padding
        import torch

        return {**given, "img_ids": torch.cat([image, references], dim=1)}


def _padded_control(control: Mapping[str, Any], grid: Grid, index: torch.Tensor) -> dict[str, Any]:
    """What a ControlNet adds to each block, ``(B, rows·columns, dim)``, for the padded tokens."""

    def padded(add: Any) -> Any:
        if add is None:
            return None
        if add.ndim != 3 or add.shape[1] != grid.real.tokens:
            raise InputError(
                f"A ControlNet adds {tuple(add.shape)} where {grid.real.tokens} tokens are expected, and does not work "
                "with DiT360 Circular Padding; remove one of them."
            )
        return add.index_select(1, index.to(add.device))

    return {
        kind: [padded(add) for add in adds] if kind in ("input", "output") else adds for kind, adds in control.items()
    }


def _padded_mask(mask: torch.Tensor, text: int, grid: Grid, index: torch.Tensor) -> torch.Tensor:
    """An attention mask ``(…, text + tokens, text + tokens)``, for the padded tokens."""
    import torch

    tokens = text + grid.real.tokens
    if tuple(mask.shape[-2:]) != (tokens, tokens):
        raise InputError(
            f"An attention mask of the shape {tuple(mask.shape)} is none of {tokens} tokens, and does not work with "
            "DiT360 Circular Padding; remove one of them."
        )
    both = torch.cat([torch.arange(text), text + index]).to(mask.device)
    return mask.index_select(-1, both).index_select(-2, both)


def refuse_areas(executor: Any, model: Any, conds: Any, x: torch.Tensor, *rest: Any, **kwargs: Any) -> Any:
    """ComfyUI's wrapper of all conditionings of a step: raises InputError if one is for a part of the longitudes.

    The model is shown that part alone then, whose left edge is no neighbour of its right one. x ``(B, C, h, w)``.
    """
    for entry in (entry for cond in conds or () for entry in cond or ()):
        area = entry.get("area")
        # Sizes along each axis, then offsets; the last of the sizes is the width in latent columns.
        if area is not None and not isinstance(area[0], str) and area[len(area) // 2 - 1] < x.shape[-1]:
            raise InputError(
                "A conditioning is for a part of the panorama's width, and a part does not wrap; remove the "
                "conditioning's area (a mask may stay), or DiT360 Circular Padding."
            )
    return executor(model, conds, x, *rest, **kwargs)


def with_padding(model: Any, padding: int) -> Any:
    """A clone of a MODEL that pads; the model itself for 0. Raises InputError for a model that is no FLUX.

    The second of two such nodes replaces the first.
    """
    from comfy.ldm.flux.model import Flux
    from comfy.patcher_extension import WrappersMP

    net = model.get_model_object("diffusion_model")
    if "ComfyFluxWrapper" in type(net).__name__:
        raise InputError(
            "nunchaku's FLUX computes positions in kernels of its own, where DiT360 Circular Padding cannot set them; "
            "connect a FLUX model of ComfyUI's own loaders (fp8 or GGUF save memory too)."
        )
    if not isinstance(net, Flux):
        raise InputError(
            f"A {type(net).__name__} is no FLUX of ComfyUI, whose position ids DiT360 Circular Padding sets; connect a "
            "model that was loaded from a FLUX checkpoint."
        )
    if not padding and not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        return model
    clone = model.clone()
    for kind in (WrappersMP.DIFFUSION_MODEL, WrappersMP.CALC_COND_BATCH):
        clone.remove_wrappers_with_key(kind, KEY)
    if padding:
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, CircularPadding(padding))
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, refuse_areas)
    return clone
