"""Packing, padding, ids and the time shift are those of FluxPipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from dit360_core.sphere.grid import Grid

from training.flux_parts import build_scheduler, pack, pad, position_ids, schedule, time_shift_mu, unpack


def test_tokens_are_packed_as_in_flux_pipeline() -> None:
    latents = torch.randn(2, 16, 4, 8)
    theirs = FluxPipeline._pack_latents(latents, 2, 16, 4, 8)
    assert torch.equal(pack(latents).reshape(2, 8, 64), theirs)
    assert torch.equal(unpack(pack(latents)), latents)


def test_ids_are_those_of_flux_pipeline_with_copied_columns() -> None:
    theirs = FluxPipeline._prepare_latent_image_ids(1, 16, 32, "cpu", torch.float32).view(16, 32, 3)
    ours = position_ids(16, 32).view(16, 34, 3)
    assert torch.equal(ours[:, 1:-1], theirs)
    assert ours[0, :, 2].tolist() == [31, *range(32), 0]


@pytest.mark.parametrize(("rows", "padding"), [(8, 1), (16, 0), (32, 2)])
def test_at_every_size_ids_are_those_that_pictures_are_made_with(rows: int, padding: int) -> None:
    grid = Grid(rows, 2 * rows, padding, 16 / rows)
    assert torch.equal(position_ids(rows, 2 * rows, padding=padding), grid.position_ids())


def test_padding_copies_the_columns_of_the_other_side() -> None:
    grid = torch.arange(8.0).view(1, 2, 4, 1)
    assert pad(grid)[0, 0, :, 0].tolist() == [3, 0, 1, 2, 3, 0]


def test_the_schedule_is_the_schedulers() -> None:
    scheduler = build_scheduler()
    assert abs(time_shift_mu(144) - calculate_shift(144)) < 1e-9
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)], mu=time_shift_mu(144))
    assert torch.allclose(schedule(10, 144), scheduler.sigmas, atol=1e-6)
