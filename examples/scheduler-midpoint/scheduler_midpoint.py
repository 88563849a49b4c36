"""The midpoint method: asks the model at the start of a step and again in its middle, and goes by the second answer."""

from dit360_core.plugins import Scheduler, hookimpl, noise_levels


class Midpoint:
    def __init__(self, settings):
        self.sigmas = lambda steps, tokens: noise_levels(settings, steps, tokens)

    def advance(self, model, x, sigma, sigma_next, generator):
        middle = (sigma + sigma_next) / 2
        half_way = x + (middle - sigma) * model(x, sigma)
        return x + (sigma_next - sigma) * model(half_way, middle)


@hookimpl
def dit360_schedulers():
    yield Scheduler(
        name="midpoint", api=1, evaluations=lambda steps: 2 * steps, honours={"timestep_schedule"}, load=Midpoint
    )
