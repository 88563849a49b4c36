"""DDIM in the flow convention as a scheduler of dit360. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Iterable

from dit360_core.plugins import Scheduler, SchedulerImplementation, SchedulerSettings, hookimpl


def _load(settings: SchedulerSettings) -> SchedulerImplementation:
    from dit360_sched_ddim.ddim import Ddim

    return Ddim(settings)


@hookimpl
def dit360_schedulers() -> Iterable[Scheduler]:
    yield Scheduler(
        name="ddim",
        api=1,
        priority=-10,
        summary="DDIM: fresh noise by scheduler_eta; without any it is flow_match",
        honours=frozenset({"timestep_schedule", "scheduler_eta"}),
        load=_load,
    )
