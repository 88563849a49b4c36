"""The contract of a scheduler, as tests that a plugin's author inherits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from dit360_core.options import TIMESTEP_SCHEDULES
from dit360_core.pipeline.sampling import one_step
from dit360_core.plugins.offers import FlowModel, Scheduler, SchedulerImplementation, SchedulerSettings
from dit360_core.testing.offering import OfferConformance
from dit360_core.testing.saying import same, shaped, within

MEAN, SPREAD = torch.tensor([1.5, -0.5]), torch.tensor([0.5, 2.0])
TOKENS = 8320


class SchedulerConformance(OfferConformance):
    """Inherit, name the plugin's module and its offer, and let pytest run it::

        class TestMine(SchedulerConformance):
            module = "my_plugin"
            def offer(self):
                return next(iter(my_plugin.dit360_schedulers()))

    many: steps after which a solver is taken to have arrived.
    """

    kind = Scheduler
    many: int = 200

    def settings(self) -> Iterable[SchedulerSettings]:
        """All that it says it obeys, with and without a time shift."""
        honours = self.offer().honours
        schedules = TIMESTEP_SCHEDULES if "timestep_schedule" in honours else ("linear",)
        etas = (0.0, 0.3, 1.0) if "scheduler_eta" in honours else (0.0,)
        for schedule, eta, shift in itertools.product(schedules, etas, (_unshifted, _shifted)):
            yield SchedulerSettings(shift=shift, timestep_schedule=schedule, eta=eta)

    # ------------------------------------------------------------------------------------------------------ tests

    def test_noise_levels_fall_from_at_most_1_to_exactly_0(self) -> None:
        for settings, steps in itertools.product(self.settings(), (1, 2, 3, 28, 200)):
            levels, case = self.offer().load(settings).sigmas(steps, TOKENS), _case(settings, steps)
            assert len(levels) == steps + 1, f"{len(levels)} noise levels where {steps + 1} belong ({case})"
            assert levels[-1] == 0.0, f"the noise levels end at {levels[-1]:.3g} where exactly 0 is due ({case})"
            assert 0.0 < levels[0] <= 1.0, f"the noise levels begin at {levels[0]:.3g}, and 1 is the most ({case})"
            rises = [(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(levels)) if not a > b]
            assert not rises, f"the noise levels do not fall from the {rises[0][0]}th, {rises[0][1:]} ({case})"

    def test_a_constant_velocity_is_integrated_exactly(self) -> None:
        """Straight paths have no curvature to get wrong, whatever the spacing."""
        for settings, steps in itertools.product(self.settings(), (1, 2, 5, 28)):
            if settings.eta:
                continue
            start, velocity = noise(50), noise(50, seed=1)
            end, levels, _ = self._run(settings, steps, start, lambda x, sigma, v=velocity: v)
            off = float((end - (start - levels[0] * velocity)).abs().max())
            within(off, 1e-5 * max(1, steps / 10), "the end of a straight path", _case(settings, steps))

    def test_the_model_is_asked_as_often_as_the_offer_says(self) -> None:
        for settings, steps in itertools.product(self.settings(), (1, 2, 28)):
            _, _, asked = self._run(settings, steps, noise(5), gaussian_flow)
            said = self.offer().evaluations(steps)
            assert asked == said, f"it asks the model {asked} times and says {said} ({_case(settings, steps)})"

    def test_a_seed_means_one_result_and_what_it_is_given_stays_as_it_was(self) -> None:
        for settings in self.settings():
            start = noise(50)
            first, again, other = (
                self._run(settings, 8, start.clone(), gaussian_flow, seed=seed)[0] for seed in (3, 3, 4)
            )
            case = _case(settings, 8)
            same(again, first, "the result with the same seed again", case)
            if settings.eta == 0.0:
                same(other, first, "the result with another seed, without noise on the way", case)
            else:
                assert not torch.equal(first, other), f"another seed gives the same result ({case})"
            kept = start.clone()
            self._run(settings, 3, start, gaussian_flow)
            same(start, kept, "the start that it was given", case)

    def test_shape_and_dtype_are_kept(self) -> None:
        for settings, dtype in itertools.product(self.settings(), (torch.float32, torch.float64)):
            end, _, _ = self._run(settings, 5, noise(7).to(dtype), gaussian_flow)
            shaped(end, torch.empty(1, 7, 2, dtype=dtype), "the result", _case(settings, 5))
            lost = int((~torch.isfinite(end)).sum())
            assert not lost, f"{lost} of {end.numel()} numbers are not finite ({_case(settings, 5)})"

    def test_samples_have_the_mean_and_spread_of_the_data(self) -> None:
        """Of a normal distribution, whose velocity is known: from noise, and from half-way, as ``denoise`` begins.

        Without a time shift, which leaves few steps to the end: what those are off by is the spacing's own.
        """
        for settings in self.settings():
            if settings.shift is not _unshifted:
                continue
            for part in (1.0, 0.5):
                levels = self.offer().load(settings).sigmas(self.many, TOKENS)
                sigma = levels[int(len(levels) * (1 - part))]
                data = MEAN + SPREAD * noise(20_000, seed=2)
                start = (1 - sigma) * data + sigma * noise(20_000)
                end, _, _ = self._run(settings, self.many, start, gaussian_flow, part=part)
                mean, spread = end[0].mean(0), end[0].std(0)
                case = f"{_case(settings, self.many)}, {part:g} of the way"
                within(float((mean - MEAN).abs().max()), 0.04 + 0.01 * float(SPREAD.max()), "the samples' mean", case)
                within(float((spread / SPREAD - 1).abs().max()), 0.03, "the samples' spread, as a share,", case)

    def test_it_arrives_no_farther_off_than_eulers_method_with_as_many_evaluations(self) -> None:
        """A sign or a factor that is wrong in a solver's correction arrives all the same, with enough steps."""
        for settings in self.settings():
            if settings.eta or settings.shift is not _unshifted or settings.timestep_schedule != "linear":
                continue
            steps = next(steps for steps in range(1, 33) if self.offer().evaluations(steps) >= 32 or steps == 32)
            evaluations, start = self.offer().evaluations(steps), noise(2000)
            found, levels, _ = self._run(settings, steps, start, gaussian_flow)
            euler = start
            for n in range(evaluations):
                sigma, after = (levels[0] * (1 - i / evaluations) for i in (n, n + 1))
                euler = euler + (after - sigma) * gaussian_flow(euler, sigma)
            # The flow keeps every quantile where it is.
            away = (start - (1 - levels[0]) * MEAN) / ((1 - levels[0]) ** 2 * SPREAD**2 + levels[0] ** 2) ** 0.5
            right = MEAN + SPREAD * away
            off, allowed = (float((end - right).pow(2).mean().sqrt()) for end in (found, euler))
            assert off <= 1.1 * allowed, (
                f"off by {off:.3g}, Euler's method with {evaluations} evaluations by {allowed:.3g}"
            )

    # ------------------------------------------------------------------------------------------------ inner parts

    def _run(
        self,
        settings: SchedulerSettings,
        steps: int,
        x: torch.Tensor,
        model: FlowModel,
        *,
        seed: int = 0,
        part: float = 1.0,
    ) -> tuple[torch.Tensor, list[float], int]:
        """The end of a run, the levels that it took, and how often it asked.

        part: of the whole way, from its end.
        """
        scheduler: SchedulerImplementation = self.offer().load(settings)
        levels = scheduler.sigmas(steps, TOKENS)
        levels = levels[int(len(levels) * (1 - part)) :]
        return integrate(scheduler, levels, x, model, seed)


def integrate(
    scheduler: Any, levels: list[float], x: torch.Tensor, model: FlowModel, seed: int = 0
) -> tuple[torch.Tensor, list[float], int]:
    """Runs a solver over noise levels: where it arrives, the levels, and how often it asked the model."""
    asked = 0

    def counting(x: torch.Tensor, sigma: float) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return model(x, sigma)

    generator = torch.Generator().manual_seed(seed)
    for sigma, sigma_next in itertools.pairwise(levels):
        x = one_step(scheduler, counting, x, sigma, sigma_next, generator)
    return x, levels, asked


def gaussian_flow(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[ε − x0 | x] for x0 of mean MEAN and standard deviation SPREAD."""
    signal = 1.0 - sigma
    variance = signal**2 * SPREAD**2 + sigma**2
    away = (x - signal * MEAN) / variance
    return (sigma * away - (MEAN + signal * SPREAD**2 * away)).to(x.dtype)


def noise(tokens: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(1, tokens, 2, generator=torch.Generator().manual_seed(seed))


def _case(settings: SchedulerSettings, steps: int) -> str:
    shift = "no time shift" if settings.shift is _unshifted else "a time shift"
    return f"{steps} steps, {shift}, timestep_schedule={settings.timestep_schedule}, scheduler_eta={settings.eta:g}"


def _unshifted(sigma: float, tokens: int) -> float:
    return sigma


def _shifted(sigma: float, tokens: int) -> float:
    """As FLUX at 8320 tokens."""
    factor = 6.456
    return 0.0 if sigma == 0.0 else factor / (factor + 1.0 / sigma - 1.0)
