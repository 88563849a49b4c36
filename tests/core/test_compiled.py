"""What runs in regions that torch.compile traces can be traced, whole: by the oldest PyTorch and by the newest.

The backend computes as without a compiler, so that nothing but tracing is tried, and results are the same to the bit.
"""

import pytest
import torch
from dit360_core.models.flux.networks import Enclosed
from dit360_core.models.lora.beside import LoraBeside, Strength
from dit360_core.models.lora.factors import Factors
from dit360_core.plugins.builtin.attention_kernels import sdpa
from dit360_core.plugins.builtin.fp8 import WeightOnlyFp8Linear
from dit360_core.plugins.builtin.int8 import DynamicInt8Linear, Int8, WeightOnlyInt8Linear, dynamic_works
from dit360_core.plugins.offers import AttentionNeed
from dit360_core.plugins.slicing import sliced
from dit360_core.sphere.grid import Grid


@pytest.fixture(autouse=True)
def _forget():
    yield
    torch.compiler.reset()


def traced(function):
    return torch.compile(function, backend="eager", fullgraph=True)


def wrapped(x):
    """All of a grid: its constructors, its properties, its indices. x ``(B, rows·columns, dim)``."""
    grid = Grid.of_picture(64, 32, padding=1, spread=0.5)
    assert grid == Grid(2, 4, 1, 0.5)
    padded = x[:, grid.pad_index()] + grid.position_ids().sum(-1, keepdim=True)
    return padded[:, grid.crop_index()] * grid.real.tokens + grid.key_bias(3).sum()


def needed(x):
    need = AttentionNeed(device="cpu", dtype="fp32", heads=x.shape[1], head_dim=8, length=x.shape[2])
    return x * need.heads + need.batch


@pytest.mark.parametrize("function", [wrapped, needed])
def test_what_is_made_inside_a_compiled_region(function):
    x = torch.randn(2, 8, 5)
    assert torch.equal(traced(function)(x), function(x))


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(64, 32)


def beside():
    factors = Factors(down=torch.randn(4, 64), up=torch.randn(32, 4))
    return LoraBeside(linear(), factors, Strength(0.5), torch.zeros(1))


LAYERS = {
    "int8": lambda: Int8().quantize(linear(), one_token=False),
    "int8-one-token": lambda: Int8().quantize(linear(), one_token=True),
    "fp8": lambda: WeightOnlyFp8Linear(
        linear().weight.detach().to(torch.float8_e4m3fn), torch.full((32,), 0.5), torch.zeros(32)
    ),
    "lora": beside,
    "t5": lambda: Enclosed(linear(), torch.float32),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("tokens", [1, 5, 2100])
@torch.no_grad()
def test_layers_of_ours(make, tokens):
    """Of one token, few, and more than are computed at once."""
    layer, x = make(), torch.randn(1, tokens, 64)
    assert torch.equal(traced(layer)(x), layer(x))


@torch.no_grad()
def test_attention_a_part_of_the_queries_at_a_time():
    q, k, v = torch.randn(3, 1, 13, 2, 8).unbind(0)
    attend = sliced(sdpa, 5)
    assert torch.equal(traced(attend)(q, k, v, scale=0.3), attend(q, k, v, scale=0.3))


def test_the_layers_are_those_that_this_machine_has():
    kinds = {type(LAYERS[name]()) for name in ("int8", "int8-one-token")}
    assert kinds == ({DynamicInt8Linear, WeightOnlyInt8Linear} if dynamic_works() else {WeightOnlyInt8Linear})
