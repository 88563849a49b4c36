"""Trial runs: a kernel is used only after it has reproduced the reference on small data of the real kind."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch

from dit360_core.errors import Reason
from dit360_core.plugins.builtin.attention_kernels import eager, sdpa
from dit360_core.plugins.choosing import reasons_of
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.slicing import of_its_shape, sliced
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from dit360_core.system.memory import is_out_of_memory

_SHORT = 300
"""Tokens of the trial that runs whole: several blocks of any kernel, the last of them not full."""
_QUERIES = {"cpu": 48}
_MOST_QUERIES = 1100
"""Queries of the trial at the real length. On a GPU, as many blocks as keep it busy: for fewer, kernels that split the
keys among its processors would be tried instead of those that paint."""
_MOST_KEYS = 16384
"""Longer needs are tried at this length: beyond it a trial takes gigabytes."""
_MOST_SCORES = 2**24
"""Queries times keys times heads of the largest trial on a CPU with as many of both: 64 MiB, half a second."""
_ROWS = 96
"""Queries of that trial that are looked at."""
_WORST = {"bf16": 4, "fp16": 4, "fp32": 128, "fp64": 128}
"""The most that PyTorch's own may be off by, in units in the last place of the largest output; 0.4 and 26 are usual."""


@attrs.frozen
class Call:
    """What one attention call is given."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    key_bias: torch.Tensor | None = None

    def to(self, attend: Any) -> Any:
        """What a kernel makes of it."""
        bias = {} if self.key_bias is None else {"key_bias": self.key_bias}
        return attend(self.q, self.k, self.v, scale=self.scale, **bias)

    def copied(self) -> Call:
        """The same in memory of its own, which a kernel may spoil."""
        return attrs.evolve(self, q=self.q.clone(), k=self.k.clone(), v=self.v.clone())

    def truth(self) -> torch.Tensor:
        """What is right, in float32 or wider. Computed in slices, since all scores of it would not fit."""
        dtype = torch.promote_types(self.q.dtype, torch.float32)
        if self.q.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
            dtype = torch.float64  # float32 means ten bits there
        wide = Call(self.q.to(dtype), self.k.to(dtype), self.v.to(dtype), self.scale, self.key_bias)
        return wide.to(sliced(eager, 128))  # type: ignore[no-any-return]


@attrs.frozen
class Expected:
    """A call and what is right.

    size: of the largest number of that.
    allowed: as in :class:`Closeness`.
    """

    call: Call
    truth: torch.Tensor
    size: float
    allowed: float


@attrs.frozen
class Closeness:
    """How far a kernel was off, at most, and how far it may be, in units of its largest right output."""

    error: float
    allowed: float
    reasons: tuple[Reason, ...] = ()


def probe_attention(attend: Any, machine: Machine, need: AttentionNeed) -> Iterable[Reason]:
    """Why a kernel must not be used for a need: what it says itself, or what :func:`closeness` finds."""
    return refusals(attend, machine, need) or closeness(attend, need).reasons


def refusals(attend: Any, machine: Machine, need: AttentionNeed) -> tuple[Reason, ...]:
    """What a loaded kernel itself has against a need."""
    return reasons_of(lambda: attend.refuses(machine, need)) if hasattr(attend, "refuses") else ()


class Trials:
    """What kernels are tried with for a need: made and computed once, however many are tried.

    several: whether more than one is, each of which is given copies then, since it may spoil them.
    """

    def __init__(self, need: AttentionNeed, *, several: bool = False) -> None:
        self.need, self._several = need, several

    def handed(self, call: Call) -> Call:
        """A call as it is given to a kernel."""
        return call.copied() if self._several else call

    @functools.cached_property
    def short(self) -> tuple[Expected, Expected]:
        """Two calls of the same shape."""
        call = trial_call(self.need, _SHORT, _SHORT)
        other = attrs.evolve(call, q=call.q.roll(1, 2), k=call.k.flip(1), v=call.v.flip(1))
        return self._expected(call), self._expected(other)

    @functools.cached_property
    def long(self) -> Expected | None:
        """One with few queries and as many keys as there are in a picture; None where the short ones are as long."""
        length = self.need.length
        if length <= _SHORT:
            return None
        keys = min(length, _MOST_KEYS)
        # Sharper than plain noise, whose average over thousands of keys is nearly nothing whatever a kernel does.
        call = trial_call(self.need, min(_QUERIES.get(self.need.device, _MOST_QUERIES), keys), keys)
        return self._expected(attrs.evolve(call, q=3 * call.q))

    @functools.cached_property
    def square(self) -> tuple[Call, torch.Tensor, Expected] | None:
        """One with as many queries as keys, the rows of it that are looked at, and what is right in these."""
        length = _square(self.need)
        if length <= _SHORT:
            return None
        call = trial_call(self.need, length, length)
        call = attrs.evolve(call, q=3 * call.q)
        rows = torch.linspace(0, length - 1, _ROWS, device=call.q.device).long()
        return call, rows, self._expected(attrs.evolve(call, q=call.q[:, rows]))

    def _expected(self, call: Call) -> Expected:
        truth = call.truth()
        size = float(truth.abs().max())
        return Expected(call, truth, size, _allowed(call, truth, self.need.dtype) / size)


def closeness(attend: Any, need: AttentionNeed, trials: Trials | None = None) -> Closeness:
    """Compares a kernel with float32 attention at the real head count, head size, length, device and dtype.

    Its error may be twice that of PyTorch's own attention in the same dtype, the rule by which FlashAttention tests
    itself; one unit in the last place is allowed on top, since two right answers differ by their order of sums. The
    keys are as many as in a picture and the queries few, as in a slice; a short call has as many of both.

    trials: those of this need, where several kernels are tried.
    """
    trials = trials or Trials(need)
    found = _again(attend, *trials.short)
    if found.reasons:
        return found
    worst = found
    if trials.long is not None:
        found = _judged(trials.handed(trials.long.call).to(attend), trials.long)
        if found.reasons:
            return found
        if found.error / found.allowed >= worst.error / worst.allowed:
            worst = found
    return attrs.evolve(worst, reasons=_everywhere(attend, trials))


def _judged(out: Any, expected: Expected, how: str = "") -> Closeness:
    """A result against what is right.

    how: the call was made, for the sentence.
    """
    allowed = expected.allowed
    if told := _misshapen(out, expected.call.q):
        return Closeness(math.nan, allowed, (Reason("probe_failed", told),))
    error = _distance(out, expected.truth) / expected.size
    if not error <= allowed:  # also true for NaN
        return Closeness(error, allowed, (_off(error, allowed, how),))
    return Closeness(error, allowed)


def _again(attend: Any, one: Expected, other: Expected) -> Closeness:
    """One call, made of other numbers in the same memory, of its own again, and in slices: a kernel remembers nothing
    of a call and changes nothing that it is given."""
    size = max(one.size, other.size)
    allowed = max(each.allowed * each.size for each in (one, other)) / size
    one, other = (attrs.evolve(each, size=size, allowed=allowed) for each in (one, other))
    used = one.call.copied()
    whole, slices = attend, sliced(attend, max(1, used.q.shape[1] * 2 // 5))
    worst = Closeness(0.0, allowed)
    for kernel, given, how in (
        (whole, one, ""),
        (whole, other, "after another call "),
        (slices, other, "in slices of the queries "),
        (whole, one, "when it is called again "),
    ):
        tensors = (("q", used.q, given.call.q), ("k", used.k, given.call.k), ("v", used.v, given.call.v))
        for _, mine, its in tensors:
            mine.copy_(its)
        found = _judged(used.to(kernel), given, how)
        for name, mine, its in tensors:
            if not torch.equal(mine, its):
                changed = Reason("probe_failed", f"it changes {name}, which it is given to read")
                return Closeness(math.nan, allowed, (changed,))
        if found.reasons:
            return found
        worst = max(worst, found, key=lambda each: each.error)
    return worst


def _everywhere(attend: Any, trials: Trials) -> tuple[Reason, ...]:
    """As many queries as keys, compared in rows from anywhere: a kernel may be right in its first blocks alone."""
    try:
        if trials.square is None:
            return ()
        call, rows, few = trials.square
        out = trials.handed(call).to(attend)
    except Exception as raised:
        if not is_out_of_memory(raised):
            raise
        return ()  # the calls before fitted, and in slices a picture's may too
    if told := _misshapen(out, call.q):
        return (Reason("probe_failed", told),)
    error = _distance(out[:, rows], few.truth) / few.size
    if not error <= few.allowed:
        off = (out[:, rows].to(few.truth.dtype) - few.truth).abs().amax((0, 2, 3))
        at = int(off.nan_to_num(math.inf).argmax())
        return (_off(error, few.allowed, f"at query {int(rows[at])} of {call.q.shape[1]} "),)
    return ()


def _square(need: AttentionNeed) -> int:
    """Tokens of the trial with as many queries as keys; on a CPU as many as take half a second."""
    most = math.isqrt(_MOST_SCORES // need.heads) if need.device == "cpu" else _MOST_QUERIES
    return min(need.length, most)


def _misshapen(out: Any, q: torch.Tensor) -> str:
    """What a kernel returned that is no attention of these queries; empty if it is."""
    try:
        of_its_shape(out, q)
    except ValueError as error:
        return str(error).replace("attention", "it", 1)
    return "" if out.is_floating_point() else f"it returned {out.dtype} where {q.dtype} belongs"


def _off(error: float, allowed: float, how: str) -> Reason:
    if not math.isfinite(error):
        return Reason("probe_failed", f"its result {how}holds numbers that are not finite")
    return Reason("probe_failed", f"its result {how}is off by {error:.2g}, where {allowed:.2g} is allowed")


def _allowed(call: Call, truth: torch.Tensor, dtype: str) -> float:
    """How far from the truth a kernel may be. PyTorch's own must not be the measure where it is broken itself."""
    unit = torch.finfo(call.q.dtype).eps * float(truth.abs().max())
    most = _WORST[dtype] * unit
    try:
        usual = 2 * _distance(call.to(sdpa), truth)
    except RuntimeError:
        return most
    return (usual if usual <= most else most) + unit


def speed(attend: Any, need: AttentionNeed, *, rounds: int = 3) -> tuple[float, float]:
    """Seconds of one call, and how often it fits into a call of PyTorch's own attention: medians of rounds in turn."""
    call = trial_call(need, need.length, need.length)

    def seconds(kernel: Any) -> float:
        _wait(need.device)
        start = time.perf_counter()
        call.to(kernel)
        _wait(need.device)
        return time.perf_counter() - start

    kernels: tuple[Callable[..., Any], ...] = (attend, sdpa)
    for kernel in kernels:
        seconds(kernel)
    pairs = [tuple(seconds(kernel) for kernel in kernels) for _ in range(rounds)]
    return statistics.median(mine for mine, _ in pairs), statistics.median(its / mine for mine, its in pairs)


def trial_call(need: AttentionNeed, queries: int, keys: int) -> Call:
    """Noise of the shapes, dtype and device of a need; always the same."""
    generator = torch.Generator(need.device).manual_seed(0)

    def noise(length: int) -> torch.Tensor:
        shape = (need.batch, length, need.heads, need.head_dim)
        return torch.randn(shape, generator=generator, device=need.device).to(torch_dtype(need.dtype))

    bias = None
    if need.key_bias:
        # As a panorama's: some columns weigh twice.
        bias = torch.zeros(keys, device=need.device)
        bias[:: max(2, keys // 5)] = math.log(2)
    return Call(noise(queries), noise(keys), noise(keys), need.head_dim**-0.5, bias)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.to(b.dtype) - b).abs().max())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
