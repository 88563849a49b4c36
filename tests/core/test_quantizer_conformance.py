"""The tests that quantizers inherit look at the tensors that PyTorch knows of."""

import pytest
import torch
from dit360_core.plugins.offers import Quantizer
from dit360_core.testing import QuantizerConformance


class Hidden:
    """Its layers keep the weights as a plain attribute, which is neither moved to a device nor saved."""

    def quantize(self, linear, *, one_token):
        class Layer(torch.nn.Module):
            weight, bias = linear.weight.detach().to(torch.float8_e4m3fn), linear.bias

            def forward(self, x):
                return torch.nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

        return Layer()


def test_a_layer_whose_weights_pytorch_does_not_know_of_fails():
    class Tried(QuantizerConformance):
        def offer(self):
            return Quantizer(name="hidden", api=1, bits=8, error=0.06, load=Hidden)

    with pytest.raises(AssertionError, match="no parameters or buffers"):
        Tried().test_layers_are_really_smaller()
