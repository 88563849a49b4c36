"""bitsandbytes' quantizers keep the contract, and say what they cannot do."""

import dit360_core
import dit360_quant_bnb
import pytest
import torch
from dit360_core.plugins.offers import QuantizationNeed
from dit360_core.system.machine import Machine
from dit360_core.testing import QuantizerConformance

OFFERS = {offer.name: offer for offer in dit360_quant_bnb.dit360_quantizers()}


class BnbConformance(QuantizerConformance):
    module = "dit360_quant_bnb"
    heavy = (*QuantizerConformance.heavy, "bitsandbytes")
    name = ""

    def offer(self):
        return OFFERS[self.name]


class TestInt4(BnbConformance):
    name = "int4"


class TestInt4Double(BnbConformance):
    name = "int4-double"


class TestInt8Bnb(BnbConformance):
    name = "int8-bnb"


def test_double_quantization_is_smaller_and_nearly_the_same():
    linear = torch.nn.Linear(1024, 1024, bias=False).requires_grad_(False)
    sizes, outputs = {}, {}
    x = torch.randn(4, 1024)
    for name in ("int4", "int4-double"):
        module = OFFERS[name].load().quantize(torch.nn.Linear(1024, 1024, bias=False), one_token=False)
        sizes[name] = sum(tensor.nbytes for tensor in module.state_dict().values())
        module = OFFERS[name].load().quantize(copy_of(linear), one_token=False)
        outputs[name] = module(x)
    assert sizes["int4-double"] < 0.94 * sizes["int4"]
    assert torch.dist(*outputs.values()) < 0.02 * outputs["int4"].norm()


def copy_of(linear):
    made = torch.nn.Linear(linear.in_features, linear.out_features, bias=False).requires_grad_(False)
    made.load_state_dict(linear.state_dict())
    return made


@pytest.mark.parametrize("name", OFFERS)
def test_layers_stay_apart_from_the_packing_that_cannot_be_undone(name):
    """Used, saved and used again, as saving a model in use would; bitsandbytes' own packing for CPUs fails this."""
    linear = torch.nn.Linear(192, 576).requires_grad_(False)
    x = torch.randn(1, 626, 192)
    module = OFFERS[name].load().quantize(linear, one_token=False).eval()
    first = module(x)
    module.state_dict()
    assert torch.equal(module(x), first)
    transposed = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.allclose(module(transposed), first, atol=1e-4)


@pytest.mark.parametrize("name", ["int4", "int4-double"])
@pytest.mark.parametrize("columns", [16, 32, 80, 96])
def test_rows_that_end_within_a_block_have_their_own_scales(name, columns):
    """bitsandbytes' kernel for CPUs with AVX-512 takes those of other blocks."""
    linear = torch.nn.Linear(columns, 128).requires_grad_(False)
    linear.weight *= torch.rand(128, 1)  # rows that are unlike
    x = torch.randn(5, columns)
    right = linear(x)
    made = torch.nn.Linear(columns, 128).requires_grad_(False)
    made.load_state_dict(linear.state_dict())
    module = OFFERS[name].load().quantize(made, one_token=False).eval()
    assert torch.dist(module(x), right) < 0.15 * right.norm()
    again = OFFERS[name].load().restore(linear.to("meta"), module.state_dict(), one_token=False).eval()
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize(
    ("need", "word"),
    [
        ({"device": "mps", "dtype": "fp32"}, "mps"),
        ({"device": "cpu", "dtype": "fp64"}, "float64"),
        ({"device": "cuda", "dtype": "bf16", "offload": "sequential"}, "sequential"),
    ],
)
def test_what_it_cannot_do_is_told(need, word):
    for offer in OFFERS.values():
        (reason,) = offer.unsupported(Machine(device=need["device"]), QuantizationNeed(**need))
        assert word in reason.sentence
        assert reason.hint


@pytest.mark.parametrize(("mode", "decibels"), [("int4", 20), ("int4-double", 20), ("int8-bnb", 30)])
def test_a_picture_is_near_to_that_of_full_weights(tiny, mode, decibels):
    import numpy as np

    picture = {"prompt": "a calm sea at noon", "seed": 3, "steps": 2, "width": 256}
    pipe = dit360_core.load("tiny", quantization_mode=mode)
    pictures = [np.asarray(each.generate(**picture).image, dtype=float) for each in (tiny, pipe)]
    error = np.square(pictures[0] - pictures[1]).mean()
    assert 0 < error < 255**2 / 10 ** (decibels / 10)
    assert {part.part: len(part.layers) for part in pipe.state.quantized} == {"transformer": 64, "text_encoder_2": 21}


def test_int8_moves_with_its_scales():
    """As a parent moves it, whose own ``to`` never calls that of its layers; imitated by copying what it holds."""
    module = OFFERS["int8-bnb"].load().quantize(torch.nn.Linear(64, 96).requires_grad_(False), one_token=False)
    parent, x = torch.nn.Sequential(module), torch.randn(3, 64)
    for _ in range(2):  # before it was used, and after
        parent._apply(lambda tensor: tensor.clone())
        holder = module.weight if module.weight.CB is not None else module.state
        assert holder.CB.data_ptr() == module.weight.data_ptr()
        assert holder.SCB.device == module.weight.device
        first = parent(x)
    assert torch.equal(parent(x), first)
