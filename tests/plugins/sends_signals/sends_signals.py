"""Interrupts the program in the middle of a picture, as a user would, but always at the same moment."""

import os
import signal

from dit360_core.plugins import Quantizer, Scheduler, hookimpl


class Interrupts:
    """One step of Euler's method, then the signal."""

    def __init__(self, number):
        self.number = number

    def sigmas(self, steps, tokens):
        return [1 - i / steps for i in range(steps)] + [0.0]

    def step(self, velocity, sigma, sigma_next, x, generator):
        if sigma < 1:
            os.kill(os.getpid(), self.number)
        return x + (sigma_next - sigma) * velocity


def terminates_while_loading():
    os.kill(os.getpid(), signal.SIGTERM)


@hookimpl
def dit360_schedulers():
    yield Scheduler(name="interrupts", api=1, priority=-1, load=lambda settings: Interrupts(signal.SIGINT))
    yield Scheduler(name="terminates", api=1, priority=-1, load=lambda settings: Interrupts(signal.SIGTERM))


@hookimpl
def dit360_quantizers():
    yield Quantizer(name="terminates-while-loading", api=1, priority=-1, load=terminates_while_loading)
