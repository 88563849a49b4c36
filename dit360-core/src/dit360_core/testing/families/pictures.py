"""Without padding a family's latents are those of diffusers' own pipeline, and every step on the way to them."""

from __future__ import annotations

import itertools
import unittest
from types import SimpleNamespace
from typing import Any

import torch

from dit360_core.errors import InputError
from dit360_core.models.embedding import Embedding
from dit360_core.pipeline.pipeline import Pipeline
from dit360_core.plugins.builtin.attention_kernels import eager, sdpa
from dit360_core.sphere.grid import Grid
from dit360_core.testing.families.base import FamilyTests
from dit360_core.testing.families.model import off
from dit360_core.testing.saying import shaped, within

FP32, FP64 = 1e-5, 1e-10
"""In standard deviations: what is left where the same numbers are added in another order."""
_FAR, _COLUMNS = 520, 1200
"""A column beyond which bfloat16 cannot tell neighbours from each other, also where positions count from the middle."""


class PictureTests(FamilyTests):
    """Of a picture from its prompt to its latents.

    double: whether diffusers' own pipeline runs in float64.
    """

    double: bool = True

    def test_the_noise_of_a_seed_is_that_of_diffusers(self) -> None:
        engine, right = self.model().load().engine, self.model().reference.start
        drawn = engine.noise(self.model().grid(), torch.Generator().manual_seed(self.seed))
        mine = engine.pack(drawn)
        shaped(mine, right, "Engine.noise, packed")
        within(off(mine, right), FP32, "Engine.noise: the noise of a seed", "draw it in the shape that diffusers does")
        again = engine.unpack(mine, self.model().grid())
        within(off(again, drawn), 0.0, "Engine.unpack of Engine.pack", "one is the inverse of the other")

    def test_the_noise_levels_are_those_of_diffusers(self) -> None:
        mine, right, tokens = self.model().levels, self.model().reference.levels, self.model().grid().tokens
        told = f"{_rounded(mine)} where diffusers has {_rounded(right)}, of {self.steps} steps and {tokens} tokens"
        assert len(mine) == len(right), f"Engine.shift: {told}"
        assert all(abs(a - b) < 1e-6 for a, b in zip(mine, right, strict=True)), f"Engine.shift: {told}"

    def test_a_prompt_becomes_what_diffusers_makes_of_it(self) -> None:
        mine, right = self.model().embedding.tokens, self.model().reference.embedding
        if mine.shape[1] < right.shape[1] and mine.shape[2:] == right.shape[2:]:
            raise unittest.SkipTest("tokens that diffusers masks are left out; an evaluation shows that none sees them")
        assert mine.shape == right.shape, (
            f"Engine.embed: a prompt becomes {tuple(mine.shape)}, and diffusers gives its transformer "
            f"{tuple(right.shape)}"
        )
        within(off(mine, right), FP32, "Engine.embed: the prompt in numbers", "look at what is written around it")

    def test_an_embedding_of_another_model_is_refused(self) -> None:
        engine, right = self.model().load().engine, self.model().embedding
        engine.check_embedding(right)
        wide = Embedding(tokens=torch.cat([right.tokens, right.tokens], dim=-1), pooled=right.pooled)
        try:
            engine.check_embedding(wide)
        except InputError:
            return
        raise AssertionError(
            f"Engine.check_embedding takes {wide.tokens.shape[-1]} channels where {right.tokens.shape[-1]} belong; "
            "raise InputError"
        )

    def test_one_evaluation_is_that_of_diffusers(self) -> None:
        model, right = self.model(), self.model().reference
        velocity = model.load().engine.velocity(model.grid(), model.guided.get("guidance"), None)
        with torch.no_grad():
            mine = velocity(right.start, model.levels[0], model.embedding)
        shaped(mine, right.first, "Velocity")
        about = "the same noise and prompt; look at positions, time and embedded guidance"
        within(off(mine, right.first), FP32, "Velocity: one evaluation", about)

    def test_latents_are_those_of_diffusers(self) -> None:
        model = self.model()
        mine = model.load().engine.pack(model.paint(model.load()))
        about = f"after {self.steps} steps; look at Facts.guidance, Engine.guided and Engine.shift"
        within(off(mine, model.reference.end), FP32, "the picture's latents", about)

    def test_latents_are_those_of_diffusers_in_double_precision(self) -> None:
        if not self.double:
            raise unittest.SkipTest("diffusers' own pipeline does not run in float64 here")
        model = self.model()
        right = model.reference_in(torch.float64)
        pipeline = self._of_diffusers(torch.float64)
        start = pipeline.engine.unpack(right.start.double(), model.grid())
        mine = pipeline.engine.pack(model.paint(pipeline, latents=start))
        within(off(mine, right.end), FP64, "the picture's latents in float64", "something is rounded to float32")

    def test_a_pipeline_of_diffusers_paints_as_the_folder_does(self) -> None:
        model = self.model()
        pipeline = self._of_diffusers(torch.float32)
        found = off(model.paint(pipeline), model.paint(model.load()))
        within(found, FP32, "Pipeline.from_diffusers, against the same model's folder,")

    def test_a_pipeline_of_others_is_refused(self) -> None:
        from diffusers import UNet2DConditionModel

        # With what any pipeline of diffusers has, and what paints is another's.
        made: Any = UNet2DConditionModel
        small = {"block_out_channels": (4,), "norm_num_groups": 2, "cross_attention_dim": 4}
        kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}
        own = self.model().load().engine.pipe
        other = SimpleNamespace(**{**own.components, "transformer": made(**small, **kinds)})
        try:
            self.model().architecture.networks.check_given(other)
        except InputError:
            return
        raise AssertionError("Networks.check_given takes what is no pipeline of this family; raise InputError")

    # ---------------------------------------------------------------------------------------------------------- dtypes

    def test_every_dtype_gives_numbers_in_the_dtype_that_is_asked_for(self) -> None:
        model = self.model()
        for precision in ("fp32", "bf16"):
            engine = model.load(precision=precision).engine
            for dtype in (torch.float32, torch.bfloat16):
                made = model.evaluate(engine, model.noise().to(dtype), model.grid())
                shaped(made, model.noise().to(dtype), f"Velocity in {precision}")
                assert bool(torch.isfinite(made).all()), f"Velocity in {precision}: not all numbers are finite"
        drawn = model.paint(model.load(precision="bf16"))
        assert drawn.dtype == torch.float32, f"latents are {drawn.dtype} where float32 belongs"

    def test_positions_are_not_rounded_in_bf16(self) -> None:
        """Equal tokens in two columns are told from each other by their positions alone."""
        model = self.model()
        engine, grid = model.load(precision="bf16").engine, Grid(1, _COLUMNS)
        seen: list[torch.Tensor] = []
        text = self._text()

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
            if k.shape[1] == text + _COLUMNS:
                seen.append(k)
            return torch.zeros_like(q)

        same = torch.ones(1, _COLUMNS, model.noise().shape[-1])
        model.evaluate(engine, same, grid, attend=attend)
        assert seen, f"no attention saw the {_COLUMNS} tokens of the picture after the {text} of the prompt"
        keys = seen[0][0, -_COLUMNS:].flatten(1)
        alike = [i for i in range(_FAR, _COLUMNS - 1) if torch.equal(keys[i], keys[i + 1])]
        assert not alike, (
            f"columns {alike[0]} and {alike[0] + 1} have the same position ({len(alike)} pairs have): ids are rounded "
            "to bfloat16 somewhere; keep them in float32"
        )

    # ------------------------------------------------------------------------------------------------------- attention

    def test_all_attention_goes_through_the_kernel(self) -> None:
        model = self.model()
        engine, grid = model.load().engine, model.grid()
        calls: list[torch.Tensor] = []

        def none(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
            calls.append(q)
            return torch.zeros_like(q)

        plain = model.evaluate(engine, model.noise(), grid)
        without = model.evaluate(engine, model.noise(), grid, attend=none)
        blocks = sum(len(engine.denoiser.get_submodule(name)) for name in self._blocks())
        assert len(calls) >= blocks, (
            f"{len(calls)} calls of the kernel in an evaluation of {blocks} blocks: give each of them your processor, "
            "and hand it what TokenVelocity.evaluate is given as attention"
        )
        assert off(without, plain) > 1e-3, "another kernel changes nothing: it is called and its result left out"
        whole = [q for q in calls if q.shape[1] == self._text() + grid.tokens]
        facts = model.facts
        assert whole, f"no call of the kernel has {self._text()} tokens of the prompt and {grid.tokens} of the picture"
        for q in whole:
            assert tuple(q.shape[2:]) == (facts.heads, facts.head_dim), (
                f"queries have {q.shape[2]} heads of {q.shape[3]}, and Facts says {facts.heads} of {facts.head_dim}"
            )
        again = model.evaluate(engine, model.noise(), grid)
        within(off(again, plain), 0.0, "the velocity after a call with another kernel", "it must leave nothing behind")

    def test_kernels_agree(self) -> None:
        model = self.model()
        first, second = (
            model.evaluate(model.load().engine, model.noise(), model.grid(), attend=kernel) for kernel in (sdpa, eager)
        )
        within(off(second, first), FP32, "the kernel eager, against sdpa,")

    # ----------------------------------------------------------------------------------------------------- inner parts

    def _blocks(self) -> tuple[str, ...]:
        return next(part.blocks for part in self.model().architecture.parts if part.name == "transformer")

    def _of_diffusers(self, dtype: torch.dtype) -> Pipeline:
        pipe = self.model().of_diffusers(dtype)
        return Pipeline.from_diffusers(pipe, registry=self.model().registry)


class PaddingTests(FamilyTests):
    """Columns that wrap: in the model's sight they are copies, in content and place.

    What is a theorem: softmax over a key that is there twice is softmax with log 2 more on its score, and a transformer
    makes of permuted tokens, with their positions, the permuted output. What is none is not asked for: positions are
    no circle, so that rolled noise does not become a rolled picture.
    """

    paddings: tuple[int, ...] = (1, 3)

    def test_pad_columns_are_copies_by_hand_and_by_bias(self) -> None:
        model = self.model()
        engine = model.load().engine
        for shown, padding in itertools.product((1, 2) if model.facts.refers else (1,), self.paddings):
            x, grid = model.noise(pictures=shown), model.grid(padding)
            padded, plain = model.evaluate(engine, x, grid), model.evaluate(engine, x, grid.real)
            by_hand = model.evaluate(engine, x, grid.real, attend=_copying(grid, self._text(), shown))
            biased = model.evaluate(engine, x, grid, biased=True)
            about = f"{padding} on either side{', one picture shown' if shown > 1 else ''}"
            assert off(padded, plain) > 1e-4, f"pad columns change nothing ({about}): give the denoiser the grid's"
            within(
                off(by_hand, padded), FP32, "pad columns, against keys and values that are there twice,",
                f"{about}; give them the positions of the columns that they copy (Grid.position_ids)",
            )  # fmt: skip
            within(
                off(biased, padded), FP32, "circular_mode=bias, against pad columns,",
                f"{about}; hand key_bias to the kernel, on image tokens alone",
            )  # fmt: skip

    def test_permuted_columns_give_the_permuted_velocity(self) -> None:
        model = self.model()
        engine, x, grid = model.load().engine, model.noise(), model.grid()
        turned = _Turned(grid.rows, grid.columns, padding=1)
        found = model.evaluate(engine, x, turned)
        about = "take positions from the grid that you are given, in its order"
        within(off(found, model.evaluate(engine, x, grid)), FP32, "the velocity of columns in another order", about)

    def test_whole_pictures_wrap_either_way(self) -> None:
        model = self.model()
        plain, padded, biased, turning = (
            model.paint(model.load(), **asked)
            for asked in (
                {},
                {"circular_padding": 1},
                {"circular_padding": 1, "circular_mode": "bias"},
                {"latent_rotation": True},
            )
        )
        within(off(biased, padded), 10 * FP32, f"circular_mode=bias after {self.steps} steps, against pad columns,")
        assert off(padded, plain) > 1e-4, "circular_padding=1 changes nothing"
        assert off(turning, plain) > 1e-4, "latent_rotation changes nothing"

    def test_turning_is_undone_by_turning_back(self) -> None:
        model = self.model()
        engine, x, grid = model.load().engine, model.noise(), model.grid()
        for columns in (1, 2, 5):
            turned = engine.turn(x, grid, columns)
            within(off(engine.turn(turned, grid, -columns), x), 0.0, f"Engine.turn by {columns} columns and back")
        whole = x.view(1, grid.rows, grid.columns, -1).roll(-1, 2).flatten(1, 2)
        within(off(engine.turn(x, grid, 2), whole), 0.0, "Engine.turn by two latent columns, against a token's column,")

    def test_a_grid_of_another_spread_is_another_picture(self) -> None:
        model = self.model()
        engine, x = model.load().engine, model.noise()
        width, height = self.size
        near, far = (model.evaluate(engine, x, Grid.of_picture(width, height, 0, spread)) for spread in (0.5, 1.0))
        assert off(near, far) > 1e-4, (
            "position_interpolation changes nothing: take positions from Grid.position_ids, which need not be whole"
        )


class _Turned(Grid):
    """Columns in another order, with their positions."""

    def sources(self) -> torch.Tensor:
        return torch.arange(self.columns).roll(3)

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def real(self) -> Grid:
        return Grid(self.rows, self.columns, spread=self.spread)

    def crop_index(self) -> torch.Tensor:
        rows = torch.arange(self.rows)[:, None] * self.columns
        return (rows + self.sources().argsort()[None, :]).reshape(-1)

    def position_ids(self) -> torch.Tensor:
        return self.real.position_ids()[self.pad_index()]


def _copying(grid: Grid, text: int, pictures: int) -> Any:
    """A kernel that gives keys and values of pad columns to a picture without them.

    text: tokens of the prompt, which come first; shown pictures come last.
    """
    real, copies = grid.rows * grid.columns, grid.pad_index()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> torch.Tensor:
        if k.shape[1] == text + pictures * real:
            order = torch.cat([torch.arange(text), text + copies, torch.arange(text + real, k.shape[1])])
            k, v = k[:, order], v[:, order]
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
        scores = (q @ k.transpose(-1, -2) * scale).softmax(-1)
        return (scores @ v).transpose(1, 2)

    return attend


def _rounded(levels: Any) -> str:
    return ", ".join(f"{level:.4f}" for level in levels)
