"""The registry's attention in ComfyUI's own models, by way of the one slot that ComfyUI has for it.

``transformer_options["optimized_attention_override"]`` is called as ``f(func, q, k, v, heads, …)`` wherever a model
asks for attention; ``func`` is the kernel that ComfyUI would have used. The slot is in a model's options, which each
clone has of its own, so nothing here is global, but for the warnings that the report repeats.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs
from dit360_core.planning.kernels import Kernels, slicing_notes
from dit360_core.plugins.offers import Attend, AttentionNeed
from dit360_core.plugins.registry import default_registry
from dit360_core.system.machine import Machine

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dit360")

SLOT = "optimized_attention_override"
KEY = "dit360_attention"
_CALLS = "apply_model"
"""Where calls of a model are watched: outside of what is compiled, and of models of other packs (nunchaku's), which ask
no wrapper of their own. By ComfyUI's name and not by its class, so that a choice can be made without ComfyUI."""
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
_WITHOUT_EFFECT = {"transformer_options", "_inside_attn_wrapper", "low_precision_attention"}
"""What ComfyUI hands to its kernels besides, that changes no number of a kernel which is exact."""


_REMEMBERED = 20
told_in_runs: dict[str, None] = {}
"""Warnings about attention since ComfyUI started, the latest last, for the report."""


@functools.cache
def machine_of(device: str) -> Machine:
    """This machine with a device by torch's name, or ``auto``; for one that the core does not know, only the name."""
    return Machine.detect(device) if device in ("auto", "cpu", "cuda", "mps") else Machine(device=device)


@functools.cache
def kernels_of(device: str, strict: bool) -> Kernels:
    """One for the process: a kernel is loaded and tried once for a need, not once for each workflow."""
    return Kernels(default_registry(), machine_of(device), strict)


@attrs.frozen(kw_only=True, eq=False)
class Override:
    """One choice of attention, in the form of ComfyUI's slot.

    backend: ``auto``, a name or a family of the registry.
    slice_size: queries at a time, 0 for all.
    strict: whether another kernel in place of the named one is an error.
    earlier: what the slot held, which gets what is none of ours.
    """

    backend: str
    slice_size: int
    strict: bool
    earlier: Callable[..., Any] | None = None
    _chosen: dict[tuple[Any, ...], Attend] = attrs.field(factory=dict, init=False, repr=False)
    _told: set[str] = attrs.field(factory=set, init=False, repr=False)
    _asked: list[Any] = attrs.field(factory=lambda: [False], init=False, repr=False)
    """Whether the call at hand asked for attention, and the noise levels of the run in which one did."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Override:
        # ComfyUI copies a model's options with each clone. What is remembered here holds for every one of them.
        return self

    def __call__(
        self,
        func: Callable[..., Any],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **others: Any,
    ) -> Any:
        """q, k, v ``(B, L, H·D)``, or ``(B, H, L, D)`` with skip_reshape; the result is ``(B, L, H·D)``, or ``(B, H, L,
        D)`` with skip_output_reshape.

        heads: H.
        """
        self._asked[0] = True
        why = _beyond_us(q, k, v, heads, mask, attn_precision, skip_reshape, others)
        if why:
            self._warn_once(f"attention: {why}, so {'an earlier override' if self.earlier else 'ComfyUI'} computes it")
            use = functools.partial(self.earlier, func) if self.earlier else func
            return use(
                q,
                k,
                v,
                heads,
                mask=mask,
                attn_precision=attn_precision,
                skip_reshape=skip_reshape,
                skip_output_reshape=skip_output_reshape,
                **others,
            )
        if skip_reshape:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        else:
            q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))
        need = (q.device.type, q.dtype, heads, q.shape[-1], max(q.shape[1], k.shape[1]))
        attend = self._chosen.get(need) or self._choose_apart(need)
        scale = others.get("scale")
        out = attend(q, k, v, scale=q.shape[-1] ** -0.5 if scale is None else scale).to(q.dtype)
        return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)

    def _choose_apart(self, key: tuple[Any, ...]) -> Attend:
        """The choice, which loads and tries kernels, is no part of a graph that is being compiled."""
        import torch

        if torch.compiler.is_compiling():
            # Wrapped only here, since that imports the compiler, which takes seconds.
            disable: Any = torch.compiler.disable
            return cast("Attend", disable(self._choose)(key))
        return self._choose(key)

    def _choose(self, key: tuple[Any, ...]) -> Attend:
        from dit360_core.plugins.slicing import sliced
        from dit360_core.system.dtypes import precision_of

        device, dtype, heads, head_dim, length = key
        need = AttentionNeed(device=device, dtype=precision_of(dtype), heads=heads, head_dim=head_dim, length=length)
        choice, attend = kernels_of(device, self.strict).choose(self.backend, need)
        if choice.fell_back:
            self._warn_once(choice.sentence())
        else:
            log.info("%s, for %d tokens", choice.sentence(), length)
        for note in slicing_notes(choice, default_registry(), self.slice_size):
            self._warn_once(note)
        self._chosen[key] = sliced(attend, self.slice_size) if self.slice_size else attend
        return self._chosen[key]

    def watch(self, executor: Any, *given: Any, **named: Any) -> Any:
        """ComfyUI's wrapper of a model's calls: warns once if a call of it asked this choice nothing."""
        run = next((o["sample_sigmas"] for o in (*given, *named.values()) if _has_levels(o)), None)
        before, self._asked[:] = self._asked[1:] or [None], [False]
        out = executor(*given, **named)
        # EasyCache and the like leave out later calls of a run; the first they never do.
        asked = self._asked[0] or (run is not None and before[0] is run)
        self._asked[:] = [False, run if asked else None]
        if not asked:
            self._warn_once(
                f"attention: {self.backend} was asked nothing, since a node after DiT360 Attention set another "
                "attention for this model, or the model computes its own; put DiT360 Attention last"
            )
        return out

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            sentence = f"{sentence.rstrip('.')}."
            log.warning("%s", sentence)
            told_in_runs[sentence] = None
            if len(told_in_runs) > _REMEMBERED:
                del told_in_runs[next(iter(told_in_runs))]


def _has_levels(given: Any) -> bool:
    return isinstance(given, dict) and "sample_sigmas" in given


def _beyond_us(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None,
    attn_precision: torch.dtype | None,
    skip_reshape: bool,
    others: dict[str, Any],
) -> str:
    """Why a call is none that the registry's kernels are made and tried for; empty if it is one."""
    if mask is not None:
        return "the model gives a mask, which the kernels of dit360 do not take"
    if str(q.dtype).removeprefix("torch.") not in _PRECISIONS or not q.dtype == k.dtype == v.dtype:
        return f"the model asks for it in {q.dtype}, {k.dtype} and {v.dtype}"
    if attn_precision is not None and attn_precision != q.dtype:
        return f"the model asks for {attn_precision} inside, and its tensors are {q.dtype}"
    layout = 4 if skip_reshape else 3
    if not q.ndim == k.ndim == v.ndim == layout or (skip_reshape and not q.shape[1] == k.shape[1] == heads):
        return "the model has other heads for queries than for keys"
    unknown = sorted(n for n, x in others.items() if n not in _WITHOUT_EFFECT | {"scale"} and x not in (None, False))
    return f"the model asks for {', '.join(unknown)}, which dit360 does not know" if unknown else ""


def with_attention(model: Any, backend: str, slice_size: int, strict: bool) -> Any:
    """A clone of a MODEL whose attention is the registry's. Raises UnknownName.

    The second of two such nodes replaces the first; another pack's override stays, for calls that are none of ours.
    """
    if backend != "auto":
        default_registry().find("attention", backend)
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    earlier = options.get(SLOT)
    if isinstance(earlier, Override):
        earlier = earlier.earlier
    elif earlier is not None:
        log.warning("attention: dit360's replaces another override of this model, which keeps the calls with a mask.")
    # A new dict, since a clone might share this one.
    ours = Override(backend=backend, slice_size=slice_size, strict=strict, earlier=earlier)
    clone.model_options["transformer_options"] = {**options, SLOT: ours}
    clone.remove_wrappers_with_key(_CALLS, KEY)
    clone.add_wrapper_with_key(_CALLS, KEY, ours.watch)
    return clone


def description_of(model: Any) -> str:
    """Which attention a MODEL has, in a sentence or two; if DiT360 Attention's was replaced, that and what helps."""
    slot = model.model_options.get("transformer_options", {}).get(SLOT)
    # A bound method of the choice that DiT360 Attention made, whatever was put into the slot afterwards.
    chosen = [wrapper.__self__ for wrapper in model.get_wrappers(_CALLS, KEY)]
    if isinstance(slot, Override):
        kept = f" {_named(slot.earlier)} keeps the calls that dit360's kernels do not take." if slot.earlier else ""
        return f"DiT360 Attention computes it with {slot.backend}.{kept}"
    other = "ComfyUI's own" if slot is None else _named(slot)
    if chosen:
        return (
            f"{other} computes it, and not DiT360 Attention ({chosen[-1].backend}), which a node after it replaced; "
            "put DiT360 Attention last."
        )
    return f"{other} computes it; no DiT360 Attention is among this model's nodes."


def _named(override: Any) -> str:
    """An override of another pack, as a person can find it."""
    inner = override.func if isinstance(override, functools.partial) else override
    name = getattr(inner, "__qualname__", type(inner).__qualname__).replace(".<locals>", "")
    return f"{getattr(inner, '__module__', type(inner).__module__)}.{name}"
