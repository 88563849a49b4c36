"""What a model's parts weigh, and what running them takes, from their configurations alone: no weights are read."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import torch

from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture
from dit360_core.models.shapes.tracing import Traced, count_operations, reserve, trace
from dit360_core.models.weights.files import ModelFiles
from dit360_core.models.weights.quiet import quiet
from dit360_core.models.weights.selection import selections
from dit360_core.models.weights.stream import dtype_of
from dit360_core.plugins.offers import LayerNeed


@attrs.frozen(kw_only=True)
class Quantized:
    """How a part's layers are quantized: bits of a weight, and bytes that a call takes for itself on a device.

    layers: which of them; None: those that the family's policy names.
    """

    bits: float
    device: str
    scratch: Callable[[LayerNeed], int] = attrs.field(eq=False)
    skip: str = ""
    layers: frozenset[str] | None = None


@attrs.frozen(kw_only=True)
class Weights:
    """Bytes of a part: all of it; the largest block and what is in none; the largest layer."""

    total: int
    block: int
    rest: int
    layer: int


Made = TypeVar("Made")


class Shapes:
    """The parts of one model on the meta device."""

    def __init__(
        self, architecture: Architecture, make: Callable[[str], torch.nn.Module | None], longest_prompt: int
    ) -> None:
        """architecture: the model's family.
        make: gives a part by its name, new each time; None if it is not there.
        longest_prompt: tokens that a prompt is padded to.
        """
        self.architecture = architecture
        self._make = make
        self.longest_prompt = longest_prompt
        self._measured: dict[Any, Any] = {}

    @classmethod
    def of_files(cls, architecture: Architecture, files: ModelFiles) -> Shapes:
        """By the configurations of a model's folder."""
        empty = architecture.networks.empty
        return cls(
            architecture, lambda part: empty(part, files.folder / part), architecture.prompt_tokens(files.folder)
        )

    @classmethod
    def of_pipeline(cls, architecture: Architecture, pipe: Any) -> Shapes:
        """By the configurations of the parts that a loaded pipeline of diffusers has."""
        longest = architecture.networks.prompt_tokens_of(pipe)
        return cls(architecture, lambda part: _like(getattr(pipe, part, None)), longest)

    @functools.cached_property
    def there(self) -> tuple[str, ...]:
        """The parts that the model has."""
        return tuple(name for name in self.architecture.names if self._whole(name) is not None)

    def weights_of_layer(self, part: str, name: str) -> int:
        """How many weights a Linear layer has."""
        layer: Any = self._whole(part).get_submodule(name)  # type: ignore[union-attr]
        return int(layer.weight.numel())

    def vae(self, dtype: torch.dtype) -> Any:
        """The autoencoder, for a tiling to look at."""

        def made() -> Any:
            with quiet():
                return self._short(AUTOENCODER).to(dtype)

        return self._once(("vae", dtype), made)

    def weights(self, part: str, dtype: torch.dtype, quantized: Quantized | None = None) -> Weights:
        """Bytes of a part.

        quantized: as its layers are; None if they are not.
        """
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
        """One run of a text encoder.

        size, packs: as for :func:`trace`.
        """

        def run(module: Any) -> Any:
            return self.architecture.networks.read_text(part, module, tokens)()

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
        """One evaluation of the transformer.

        stores_scores: whether the attention kernel does; others: as for trace.
        """

        def run(module: Any) -> Any:
            networks = self.architecture.networks
            networks.attach(module, _with_scores if stores_scores else _without_scores, slice_size)
            return networks.denoise(module, dtype, image_tokens, text_tokens)()

        key = ("step", dtype, image_tokens, text_tokens, stores_scores, slice_size, quantized, size, packs)
        return self._once(key, lambda: self._traced(DENOISER, dtype, quantized, run, size, packs))

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
        with _shortened(self._blocks(part), whole, 2):
            return copy.deepcopy(whole).eval()

    def _weigh(self, part: str, dtype: torch.dtype, quantized: Quantized | None) -> Weights:
        module: Any = self._whole(part)
        chosen = self._layers(module, part, quantized)

        def size(name: str, tensor: torch.Tensor) -> int:
            if quantized is not None and name.rpartition(".")[0] in chosen and name.endswith(".weight"):
                return int(tensor.numel() * quantized.bits / 8)
            itemsize = dtype_of(module, name, dtype).itemsize if tensor.is_floating_point() else tensor.itemsize
            return tensor.numel() * itemsize

        sizes = {name: size(name, t) for name, t in [*module.named_parameters(), *module.named_buffers()]}
        blocks: dict[str, int] = {}
        layers: dict[str, int] = {}
        lists = self._blocks(part)
        for name, count in sizes.items():
            layers[name.rpartition(".")[0]] = layers.get(name.rpartition(".")[0], 0) + count
            for of in lists:
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
            # Buffers too, which are made with numbers in them.
            module = self._short(part).to("meta", dtype)
        for name, parameter in module.named_parameters():
            parameter.data = parameter.data.to(dtype_of(module, name, dtype))
        for name in self._layers(module, part, quantized):
            if isinstance(module.get_submodule(name), torch.nn.Linear):
                _exchange(module, name, quantized)
        with quiet():
            found = trace(lambda: run(module), module=module, size=size, packs=packs)
        more = sum(
            (length - 2) * found.inside[f"{of}.1"]
            for of, length in zip(self._blocks(part), self._lengths(part), strict=True)
            if length > 2
        )
        return attrs.evolve(found, operations=found.operations + more)

    def _blocks(self, part: str) -> tuple[str, ...]:
        """What repeats in a part: all blocks of a list are alike, so that two of each tell of all.

        Somebody's own pipeline may hold the part within a larger one, as files do.
        """

        def found() -> tuple[str, ...]:
            described, whole = self.architecture.part(part), self._whole(part)
            return tuple(_inside(whole, path, ("", *described.prefixes)) for path in described.blocks)

        return self._once(("blocks", part), found)

    def _layers(self, module: torch.nn.Module, part: str, quantized: Quantized | None) -> Mapping[str, bool]:
        if quantized is None or not self.architecture.part(part).option:
            return {}
        if quantized.layers is not None:
            return dict.fromkeys((name for name in quantized.layers if _there(module, name)), False)
        # A pattern of quantization_skip may be another part's.
        policy = self.architecture.networks.policy
        return selections({part: module}, quantized.skip, policy, checked=False)[part].layers

    def _lengths(self, part: str) -> list[int]:
        whole: Any = self._whole(part)
        return [len(whole.get_submodule(of)) for of in self._blocks(part)]


@contextlib.contextmanager
def _shortened(lists_of_blocks: tuple[str, ...], module: Any, count: int) -> Iterator[None]:
    """With so many blocks of each kind, in this block."""
    places = [(module.get_submodule(of.rpartition(".")[0]), of.rpartition(".")[2]) for of in lists_of_blocks]
    lists = [getattr(owner, leaf) for owner, leaf in places]
    try:
        for (owner, leaf), blocks in zip(places, lists, strict=True):
            setattr(owner, leaf, blocks[:count])
        yield
    finally:
        for (owner, leaf), blocks in zip(places, lists, strict=True):
            setattr(owner, leaf, blocks)


def _inside(module: Any, path: str, before: tuple[str, ...]) -> str:
    """The path of a submodule, with one of these before it."""
    there = {name for name, _ in module.named_modules()}
    return next((each + path for each in before if each + path in there), path)


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


def _there(module: torch.nn.Module, name: str) -> bool:
    """Whether a module that may have fewer blocks has this layer."""
    try:
        return module.get_submodule(name) is not None
    except AttributeError:
        return False


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
