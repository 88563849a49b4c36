"""Of every kind something that loads and passes its trial, and then fails in the middle of a picture."""

import os
import signal
import sys

from dit360_core.plugins import AttentionBackend, Quantizer, Scheduler, Tiling, hookimpl


class Unprintable(RuntimeError):
    def __str__(self):
        raise TypeError("no text for this error")


class Panic(BaseException):
    """As pyo3's PanicException, of any library in Rust."""


def raising(error):
    def fail(*_):
        raise error

    return fail


def attention(fail):
    """PyTorch's own, but for the ninth call of as many queries as keys: one is a trial's, six are a step's."""

    def load():
        from torch.nn.functional import scaled_dot_product_attention

        calls = 0

        def attend(q, k, v, *, scale):
            nonlocal calls
            calls += q.shape == k.shape
            if calls == 9:
                fail()
            out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
            return out.transpose(1, 2)

        return attend

    return load


class Euler:
    """Right, but for the second step."""

    def __init__(self, second):
        self.second, self.steps = second, 0

    def sigmas(self, steps, tokens):
        return [1 - i / steps for i in range(steps)] + [0.0]

    def step(self, velocity, sigma, sigma_next, x, generator):
        self.steps += 1
        x = x + (sigma_next - sigma) * velocity
        return self.second(x) if self.steps == 2 else x


class RaisingSigmas(Euler):
    def sigmas(self, steps, tokens):
        raise LookupError("no levels for so many tokens")


class Strips:
    """Four strips, one after the other, as somebody's own tiles; ``fail`` is given what is to be returned."""

    def __init__(self, at_the_third=lambda: None, at_the_end=lambda made: made):
        self.at_the_third, self.at_the_end = at_the_third, at_the_end
        self.report = {"tiles": 4}

    def _strips(self, run, given):
        import torch

        made = []
        with torch.no_grad():
            for i, strip in enumerate(given.chunk(4, -1)):
                if i == 2:
                    self.at_the_third()
                made.append(run(strip))
        return self.at_the_end(torch.cat(made, -1))

    def decode(self, vae, latents):
        return self._strips(lambda strip: vae.decode(strip).sample, latents)

    def encode(self, vae, pixels):
        return self._strips(lambda strip: vae.encode(strip).latent_dist.mean, pixels)


class FailingLayers:
    """Weights in bfloat16, in layers that fail from their third call on: the first is the trial of it."""

    def __init__(self, third):
        self.third = third

    def quantize(self, linear, *, one_token):
        import torch

        third = self.third

        class FailingLayer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(linear.weight.bfloat16(), requires_grad=False)
                self.bias = linear.bias
                self.calls = 0

            def forward(self, x):
                self.calls += 1
                out = torch.nn.functional.linear(x, self.weight.to(x.dtype), self.bias)
                return third(out) if self.calls >= 3 else out

        return FailingLayer()


def terminate(x):
    os.kill(os.getpid(), signal.SIGTERM)
    return x


@hookimpl
def dit360_attention_backends():
    for name, fail in (
        ("exits-midway", sys.exit),
        ("interrupts-midway", raising(KeyboardInterrupt())),
        ("unprintable-midway", raising(Unprintable())),
        ("panics-midway", raising(Panic("called `Option::unwrap()` on a `None` value"))),
    ):
        yield AttentionBackend(name=name, api=1, priority=-90, load=attention(fail))


@hookimpl
def dit360_schedulers():
    for name, second in (
        ("step-raises", raising(ImportError("libsolver.so: undefined symbol: _ZN3c10"))),
        ("step-exits", lambda x: sys.exit(0)),
        ("step-nan", lambda x: x * float("nan")),
        ("step-none", lambda x: None),
        ("step-halves", lambda x: x[:, ::2]),
        ("step-is-terminated", terminate),
        ("step-closes", raising(GeneratorExit())),
    ):
        yield Scheduler(name=name, api=1, priority=-90, load=lambda settings, second=second: Euler(second))
    yield Scheduler(name="sigmas-raise", api=1, priority=-90, load=RaisingSigmas)


@hookimpl
def dit360_tilings():
    for name, options in (
        ("third-tile-raises", {"at_the_third": raising(RuntimeError("CUDA error: an illegal memory access"))}),
        ("third-tile-exits", {"at_the_third": sys.exit}),
        ("tiles-nan", {"at_the_end": lambda made: made * float("nan")}),
        ("tiles-none", {"at_the_end": lambda made: None}),
        ("tiles-halves", {"at_the_end": lambda made: made[..., ::2]}),
    ):
        yield Tiling(
            name=name, api=1, exact=False, priority=-90, load=lambda settings, options=options: Strips(**options)
        )


@hookimpl
def dit360_quantizers():
    for name, third in (
        ("layer-raises", raising(ValueError("rows of this length are not for me"))),
        ("layer-nan", lambda out: out * float("nan")),
    ):
        yield Quantizer(name=name, api=1, priority=-90, load=lambda third=third: FailingLayers(third))
