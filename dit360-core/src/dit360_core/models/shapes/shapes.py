"""What a model's parts weigh, and what running them takes, from their configurations alone: no weights are read."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import torch

from dit360_core.models.flux.folder import WEIGHTS
from dit360_core.models.flux.layers import PARTS, selections
from dit360_core.models.flux.tokenizers import longest_prompt
from dit360_core.models.shapes.tracing import Traced, count_operations, reserve, trace
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.stream import dtype_of, empty
from dit360_core.plugins.offers import LayerNeed
from dit360_core.plugins.slicing import sliced

BLOCKS = {"transformer": ("transformer_blocks", "single_transformer_blocks"), "text_encoder_2": ("encoder.block",)}
"""What repeats in a part: all blocks of a list are alike, so that two of each tell of all."""


@attrs.frozen(kw_only=True)
class Quantized:
    """How a part's layers are quantized: bits of a weight, and bytes that a call takes for itself on a device."""

    bits: float
    device: str
    scratch: Callable[[LayerNeed], int] = attrs.field(eq=False)
    skip: str = ""


@attrs.frozen(kw_only=True)
class Weights:
    """Bytes of a part: all of it; the largest block and what is in none; the largest layer."""

    total: int
    block: int
    rest: int
    layer: int


Made = TypeVar("Made")


class Shapes:
    """The parts of one model on the meta device. make: a part by its name, new each time; None if it is not there."""

    def __init__(self, make: Callable[[str], torch.nn.Module | None], longest_prompt: int = 512) -> None:
        """longest_prompt: tokens that a prompt is padded to."""
        self._make = make
        self.longest_prompt = min(512, longest_prompt)
        self._measured: dict[Any, Any] = {}

    @classmethod
    def of_folder(cls, folder: Path) -> Shapes:
        """By the configurations of a model's folder."""
        return cls(lambda part: empty(part, folder / part), longest_prompt(folder / "tokenizer_2", 512))

    @classmethod
    def of_pipeline(cls, pipe: Any) -> Shapes:
        """By the configurations of the parts that a loaded FluxPipeline has."""
        tokenizer = getattr(pipe, "tokenizer_2", None)
        return cls(lambda part: _like(getattr(pipe, part, None)), int(tokenizer.model_max_length) if tokenizer else 512)

    @functools.cached_property
    def there(self) -> tuple[str, ...]:
        """The parts that the model has."""
        return tuple(name for name in WEIGHTS if self._whole(name) is not None)

    @property
    def heads(self) -> tuple[int, int]:
        """Heads of the transformer's attention, and channels of each."""
        config: Any = self._whole("transformer").config  # type: ignore[union-attr]
        return int(config.num_attention_heads), int(config.attention_head_dim)

    def weights_of_layer(self, part: str, name: str) -> int:
        """How many weights a Linear layer has."""
        layer: Any = self._whole(part).get_submodule(name)  # type: ignore[union-attr]
        return int(layer.weight.numel())

    def vae(self, dtype: torch.dtype) -> Any:
        """The autoencoder, for a tiling to look at."""

        def made() -> Any:
            with quiet():
                return self._short("vae").to(dtype)

        return self._once(("vae", dtype), made)

    def weights(self, part: str, dtype: torch.dtype, quantized: Quantized | None = None) -> Weights:
        """Bytes of a part. quantized: as its layers are; None if they are not."""
        return self._once(("weights", part, dtype, quantized), lambda: self._weigh(part, dtype, quantized))

    def text(
        self,
        part: str,
        dtype: torch.dtype,
        tokens: int,
        quantized: Quantized | None,
        size: Callable[[int], int],
        packs: tuple[torch.dtype, ...] = (),
    ) -> Traced:
        """One run of a text encoder. size, packs: as for :func:`trace`."""

        def run(module: Any) -> Any:
            ids = torch.zeros(1, tokens if part == "text_encoder_2" else 77, dtype=torch.long, device="meta")
            return module(ids, output_hidden_states=False)

        key = ("text", part, dtype, tokens, quantized, size, packs)
        return self._once(key, lambda: self._traced(part, dtype, quantized, run, size, packs))

    def step(
        self,
        dtype: torch.dtype,
        image_tokens: int,
        text_tokens: int,
        *,
        stores_scores: bool,
        slice_size: int,
        quantized: Quantized | None,
        size: Callable[[int], int],
        packs: tuple[torch.dtype, ...] = (),
    ) -> Traced:
        """One evaluation of the transformer. stores_scores: whether the attention kernel does; others: as for trace."""

        def run(module: Any) -> Any:
            with quiet():
                from dit360_core.models.flux.processor import (
                    AttentionProcessor,  # diffusers is loud when it is imported
                )

            attend = _with_scores if stores_scores else _without_scores
            module.set_attn_processor(AttentionProcessor(sliced(attend, slice_size) if slice_size else attend))
            config = module.config

            def made(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
                return torch.empty(shape, dtype=of, device="meta")

            return module(
                hidden_states=made(1, image_tokens, config.in_channels),
                timestep=made(1),
                guidance=made(1, of=torch.float32) if config.guidance_embeds else None,
                pooled_projections=made(1, config.pooled_projection_dim),
                encoder_hidden_states=made(1, text_tokens, config.joint_attention_dim),
                txt_ids=made(text_tokens, 3, of=torch.float32),
                img_ids=made(image_tokens, 3, of=torch.float32),
                return_dict=False,
            )

        key = ("step", dtype, image_tokens, text_tokens, stores_scores, slice_size, quantized, size, packs)
        return self._once(key, lambda: self._traced("transformer", dtype, quantized, run, size, packs))

    # ------------------------------------------------------------------------------------------------- inner parts

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self._measured:
            self._measured[key] = make()
        return self._measured[key]  # type: ignore[no-any-return]

    def _whole(self, part: str) -> torch.nn.Module | None:
        return self._once(("whole", part), lambda: _tied(self._make(part)))  # type: ignore[no-any-return]

    def _short(self, part: str) -> Any:
        """A copy of a part with two blocks of each kind, to be changed."""
        whole = self._whole(part)
        assert whole is not None
        with _shortened(part, whole, 2):
            return copy.deepcopy(whole).eval()

    def _weigh(self, part: str, dtype: torch.dtype, quantized: Quantized | None) -> Weights:
        module: Any = self._whole(part)
        chosen = _layers(module, part, quantized)

        def size(name: str, tensor: torch.Tensor) -> int:
            if quantized is not None and name.rpartition(".")[0] in chosen and name.endswith(".weight"):
                return int(tensor.numel() * quantized.bits / 8)
            itemsize = dtype_of(module, name, dtype).itemsize if tensor.is_floating_point() else tensor.itemsize
            return tensor.numel() * itemsize

        sizes = {name: size(name, t) for name, t in [*module.named_parameters(), *module.named_buffers()]}
        blocks: dict[str, int] = {}
        layers: dict[str, int] = {}
        for name, count in sizes.items():
            layers[name.rpartition(".")[0]] = layers.get(name.rpartition(".")[0], 0) + count
            for of in BLOCKS.get(part, ()):
                if name.startswith(of + "."):
                    block = name[: len(of) + 1] + name[len(of) + 1 :].partition(".")[0]
                    blocks[block] = blocks.get(block, 0) + count
        total = sum(sizes.values())
        return Weights(
            total=total,
            block=max(blocks.values(), default=total),
            rest=total - sum(blocks.values()) if blocks else 0,
            layer=max(layers.values()),
        )

    def _traced(
        self,
        part: str,
        dtype: torch.dtype,
        quantized: Quantized | None,
        run: Callable[[Any], Any],
        size: Callable[[int], int],
        packs: tuple[torch.dtype, ...],
    ) -> Traced:
        """With two blocks of each kind instead of all, and the work of all."""
        with quiet():
            module = self._short(part).to(dtype)
        for name in _layers(module, part, quantized):
            _exchange(module, name, quantized)
        with quiet():
            found = trace(lambda: run(module), module=module, size=size, packs=packs)
        more = sum(
            (length - 2) * found.inside[f"{of}.1"]
            for of, length in zip(BLOCKS.get(part, ()), self._lengths(part), strict=True)
            if length > 2
        )
        return attrs.evolve(found, operations=found.operations + more)

    def _lengths(self, part: str) -> list[int]:
        whole: Any = self._whole(part)
        return [len(whole.get_submodule(of)) for of in BLOCKS.get(part, ())]


@contextlib.contextmanager
def _shortened(part: str, module: Any, count: int) -> Iterator[None]:
    """With so many blocks of each kind, for this block."""
    places = [(module.get_submodule(of.rpartition(".")[0]), of.rpartition(".")[2]) for of in BLOCKS.get(part, ())]
    lists = [getattr(owner, leaf) for owner, leaf in places]
    try:
        for (owner, leaf), blocks in zip(places, lists, strict=True):
            setattr(owner, leaf, blocks[:count])
        yield
    finally:
        for (owner, leaf), blocks in zip(places, lists, strict=True):
            setattr(owner, leaf, blocks)


def _tied(module: Any) -> Any:
    # Made without data, parameters that are one are two.
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module


def _like(part: Any) -> torch.nn.Module | None:
    """An empty part of the same configuration."""
    if part is None:
        return None
    with quiet():
        from accelerate import init_empty_weights

        with init_empty_weights():
            cls: Any = type(part)
            return cls.from_config(part.config) if hasattr(cls, "from_config") else cls(part.config)  # type: ignore[no-any-return]


def _layers(module: torch.nn.Module, part: str, quantized: Quantized | None) -> Mapping[str, bool]:
    if quantized is None or part not in PARTS.values():
        return {}
    # A pattern of quantization_skip may be another part's.
    return selections({part: module}, quantized.skip, checked=False)[part].layers


class _InFewerBits(torch.nn.Module):
    """Stands for a quantized layer."""

    weight = None

    def __init__(self, linear: Any, quantized: Quantized) -> None:
        super().__init__()
        self._inputs, self._outputs = linear.in_features, linear.out_features
        self._quantized = quantized

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.numel() // self._inputs
        need = LayerNeed(
            device=self._quantized.device,
            inputs=self._inputs,
            outputs=self._outputs,
            tokens=tokens,
            itemsize=x.itemsize,
        )
        out = x.new_empty(*x.shape[:-1], self._outputs)
        taken = reserve(self._quantized.scratch(need))
        del taken
        count_operations(2 * tokens * self._inputs * self._outputs)
        return out


def _exchange(module: Any, name: str, quantized: Quantized | None) -> None:
    assert quantized is not None
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, _InFewerBits(module.get_submodule(name), quantized))


def _without_scores(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **_: Any) -> torch.Tensor:
    """Stands for every fused kernel: it holds its result and a number for each query."""
    count_operations(4 * q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2] * q.shape[3])
    return torch.empty_like(q)


def _with_scores(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, **_: Any) -> torch.Tensor:
    """Stands for kernels that hold all scores, in float32 as the softmax is."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, value = (t.transpose(1, 2).to(wide) for t in (q, k, v))
    scores = (q * scale) @ k.transpose(-1, -2)
    return (scores @ value).transpose(1, 2).to(v.dtype)
