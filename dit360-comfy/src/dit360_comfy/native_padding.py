"""Circular padding around each call of ComfyUI's own FLUX, Qwen-Image and Krea 2.

The latents are wrapped before the model sees them, the position ids of the columns so added are set to those of the
columns they copy, and what comes out is cropped. A pad token equals its source in content and place, so this is the
same computation as padding once and sampling padded (see :mod:`dit360_core.sphere.grid`), whatever the sampler does
between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from dit360_core.errors import InputError
from dit360_core.sphere.grid import Grid

from dit360_comfy.native_families import FLUX, REFERENCES, Family, family_of, names_of_inputs

if TYPE_CHECKING:
    import torch

KEY = "dit360_circular_padding"

_NOT_CALLED = (
    "This model never asks DiT360 Circular Padding for the positions of the padded columns, so the picture would be "
    "another one: another node pack replaces the model's forward pass (as TeaCache does) or answers in its place{}; "
    "remove that pack's node from this model, or DiT360 Circular Padding. ComfyUI's own EasyCache works with it."
)


@attrs.define(eq=False)
class CircularPadding:
    """ComfyUI's wrapper of a diffusion model: ``padding`` token columns on either side during the call.

    inputs: names of what a call is given by position.
    """

    padding: int
    family: Family = FLUX
    inputs: tuple[str, ...] = (
        "x", "timestep", "context", "y", "guidance", "ref_latents", "control", "transformer_options",
    )  # fmt: skip
    _works_in: Any = attrs.field(default=None, init=False, repr=False)
    """Noise levels of the run in which the model asked for positions."""

    def __call__(self, executor: Any, *positional: Any, **named: Any) -> torch.Tensor:
        """x ``(B, C, h, w)`` or ``(B, C, frames, h, w)`` latents, channels to be concatenated included; the result is
        ``(B, C', …, h, w)``.

        Raises InputError where tokens would not wrap.
        """
        import torch

        given = {**dict(zip(self.inputs, positional, strict=False)), **named}
        x, options = given["x"], given.get("transformer_options") or {}
        patch = int(getattr(executor.class_obj, self.family.patch))
        grid = self._grid(x, patch)
        index = grid.pad_index()
        method = given.get("ref_latents_method")
        if given.get("ref_latents") is not None and method not in REFERENCES:
            raise InputError(
                f"Reference latents are placed by {method!r}, which DiT360 Circular Padding does not know; "
                "choose another method, or remove the padding."
            )
        if given.get("control") is not None:
            given["control"] = _padded_control(given["control"], grid, index)
        mask = given.get("attention_mask")
        if mask is not None and self.family.masks_tokens:
            given["attention_mask"] = _padded_mask(mask, given["context"].shape[1], grid, index)

        patches = dict(options.get("patches", {}))
        ids = _Ids(grid, self.family, method in self.family.behind, -(-x.shape[-2] // patch))
        # First, so that the patches of others see the ids that the model will see.
        patches["post_input"] = [ids, *patches.get("post_input", [])]
        if "double_block" in patches:
            patches["double_block"] = [_Unpadded(other, grid, x) for other in patches["double_block"]]
        columns = self.padding * patch
        given["x"] = torch.cat([x[..., -columns:], x, x[..., :columns]], dim=-1)
        given["transformer_options"] = {**options, "patches": patches}
        ordered = [given.pop(name) for name in self.inputs[: len(positional)]]
        out: torch.Tensor = executor(*ordered, **given)
        sampling = options.get("sample_sigmas")
        if ids.called:
            self._works_in = sampling
        elif sampling is None or sampling is not self._works_in:
            # EasyCache and the like leave out later calls of a run, which is as well; the first they never do.
            raise InputError(_NOT_CALLED.format(self.family.since))
        return out[..., columns:-columns]

    def _grid(self, x: torch.Tensor, patch: int) -> Grid:
        """All tokens of a picture, or of its frames one below the other."""
        width = x.shape[-1]
        if x.ndim not in self.family.axes or width % patch:
            raise InputError(
                f"Latents of the shape {tuple(x.shape)} do not wrap: their width must be a multiple of {patch} "
                f"latent columns; choose a width that is a multiple of {8 * patch} pixels."
            )
        if self.padding > width // patch:
            raise InputError(
                f"circular_padding={self.padding} is wider than the picture, which has {width // patch} token columns; "
                "use 1, which DiT360 was trained with."
            )
        frames = int(x.shape[2]) if self.family.frames_are_tokens else 1
        return Grid(rows=frames * -(-x.shape[-2] // patch), columns=width // patch, padding=self.padding)


@attrs.define(eq=False)
class _Ids:
    """ComfyUI's ``post_input`` patch: position ids of the pad columns become those of what they copy.

    behind: whether reference latents lie behind the picture.
    height: rows of tokens in a frame.
    """

    grid: Grid
    family: Family
    behind: bool
    height: int
    called: bool = False
    """Whether the model asked for it, which it must."""

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        """img_ids ``(B, image tokens + reference tokens, axes)``, (…, row, column, …) of each token."""
        import torch

        self.called = True
        ids = given["img_ids"]
        image, references = ids[:, : self.grid.tokens], ids[:, self.grid.tokens :]
        rows = image.unflatten(1, (self.grid.rows, -1))
        # The ids of the real columns are those at their places among the real ones where the padded columns are
        # numbered from the first, whatever the distance of the numbers is, and where they are among all if from the
        # middle.
        sources = self.grid.sources() + (self.grid.padding if self.family.centred else 0)
        image = rows[:, :, sources.to(ids.device)].flatten(1, 2)
        if self.behind:  # whose width must be that without padding
            references = references.clone()
            references[..., 2] -= 2 * self.grid.padding
        changed = {**given, "img_ids": torch.cat([image, references], dim=1)}
        if self.family.centred:
            changed["txt_ids"] = given["txt_ids"] - (self._begin(2 * self.grid.padding) - self._begin(0))
        return changed

    def _begin(self, more: int) -> int:
        """The first id of the text beside a picture with so many columns more."""
        return max((self.grid.columns + more) // 2, self.height // 2)


@attrs.define(eq=False)
class _Unpadded:
    """A ``double_block`` patch of another node, which is shown the picture without padding.

    It may know the picture's size, as DiffSynth's ControlNets for Qwen-Image do. Pad tokens are copies, so none is
    lost.
    """

    other: Callable[[dict[str, Any]], dict[str, Any]]
    grid: Grid
    x: torch.Tensor

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        real = self.grid.rows * self.grid.columns
        shown = _taken(given["img"], self.grid.crop_index(), self.grid.tokens)
        out = self.other({**given, "img": shown, "x": self.x})
        return {**out, "img": _taken(out["img"], self.grid.pad_index(), real)}


def _taken(tokens: torch.Tensor, index: torch.Tensor, image: int) -> torch.Tensor:
    """``(B, image + references, dim)`` with other tokens of the picture, and the references as they are."""
    import torch

    return torch.cat([tokens[:, :image].index_select(1, index.to(tokens.device)), tokens[:, image:]], dim=1)


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
    """A clone of a MODEL that pads; the model itself for 0. Raises InputError for a model of another kind.

    The second of two such nodes replaces the first.
    """
    from comfy.patcher_extension import WrappersMP

    net = model.get_model_object("diffusion_model")
    family = family_of(net)
    if not padding and not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        return model
    clone = model.clone()
    for kind in (WrappersMP.DIFFUSION_MODEL, WrappersMP.CALC_COND_BATCH):
        clone.remove_wrappers_with_key(kind, KEY)
    if padding:
        pad = CircularPadding(padding, family, names_of_inputs(net))
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, pad)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, refuse_areas)
    return clone
