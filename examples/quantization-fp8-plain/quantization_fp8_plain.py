"""Weights in float8 without any scales, as many files in the wild have them. To be used, not saved: no ``restore``."""

from dit360_core.plugins import Quantizer, hookimpl


def load():
    import torch

    class Float8Linear(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.weight = torch.nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
            self.bias = linear.bias

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight.to(x.dtype), self.bias)

    class Float8:
        def quantize(self, linear, *, one_token):
            return Float8Linear(linear)

    return Float8()


@hookimpl
def dit360_quantizers():
    yield Quantizer(name="fp8-plain", api=1, priority=-50, bits=8, error=0.06, load=load)
