"""The token grid: what is padded, where it comes from, which ids it has."""

import torch
from dit360_core.sphere.grid import Grid, rotation
from hypothesis import given
from hypothesis import strategies as st

grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 9), st.integers(0, 12))


def test_one_pad_column_is_the_published_order():
    ids = Grid(rows=64, columns=128, padding=1).position_ids().reshape(64, 130, 3)
    assert ids[0, :, 2].tolist() == [127, *range(128), 0]
    assert ids[5, :, 1].unique().tolist() == [5]
    assert ids[..., 0].unique().tolist() == [0]


def test_dit360_has_8320_tokens():
    assert Grid.of_picture(2048, 1024, padding=1).tokens == 8320


@given(grids)
def test_cropping_undoes_padding(grid):
    tokens = torch.arange(grid.rows * grid.columns)
    assert torch.equal(tokens[grid.pad_index()][grid.crop_index()], tokens)


@given(grids)
def test_a_pad_token_has_the_content_and_the_id_of_its_source(grid):
    content = torch.arange(grid.rows * grid.columns)
    unpadded = Grid(grid.rows, grid.columns).position_ids()
    padded = content[grid.pad_index()]
    assert padded.shape == (grid.tokens,)
    assert torch.equal(grid.position_ids(), unpadded[padded])


@given(grids)
def test_neighbours_in_the_padded_grid_are_neighbours_on_the_sphere(grid):
    columns = grid.sources()
    steps = (columns[1:] - columns[:-1]) % grid.columns
    assert torch.all(steps == 1 % grid.columns)


def test_ids_without_padding_are_those_of_diffusers():
    from diffusers import FluxPipeline

    theirs = FluxPipeline._prepare_latent_image_ids(1, 5, 10, torch.device("cpu"), torch.float32)
    assert torch.equal(Grid(5, 10).position_ids(), theirs)


@given(st.integers(4, 150).map(lambda half: 2 * half))
def test_rotations_put_the_edge_almost_everywhere(columns):
    """Over n steps no stretch without an edge is longer than a few n-ths of the way round."""
    edges = sorted({rotation(step, columns) for step in range(28)})
    gaps = [(b - a) % columns or columns for a, b in zip(edges, [*edges[1:], edges[0]], strict=True)]
    assert rotation(0, columns) == 0
    assert max(gaps) <= columns * 3 / 28 + 3
    # Never the meridian where two tokens meet, once there is anything to be seen.
    assert all(rotation(step, columns) % 2 and 0 < rotation(step, columns) < columns for step in range(1, 28))


@given(st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_an_interpolated_id_names_one_direction_at_every_size(rows, times, padding):
    """A token that covers several of the native grid has the mean of their ids; pads still equal their sources."""
    native = Grid(rows * times, 2 * rows * times).position_ids().reshape(rows, times, 2 * rows, times, 3).mean((1, 3))
    coarse = Grid(rows, 2 * rows, padding, float(times))
    ids = coarse.position_ids()
    assert torch.allclose(ids[coarse.crop_index()], native.reshape(-1, 3))
    assert torch.equal(ids, ids[coarse.crop_index()][coarse.pad_index()])


def test_without_interpolation_ids_are_whole_numbers():
    assert torch.equal(Grid(4, 8, 1).position_ids(), Grid(4, 8, 1, 1.0).position_ids().round())
