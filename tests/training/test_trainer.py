"""One step of training: which losses it has, that padding is cropped, that attention is attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training import checkpoint, latents, text
from training.data import ZOOMED
from training.flux_parts import CHANNELS, build_transformer, unpack, window_ids
from training.scenes import draw
from training.tokenizers_of import clip_tokenizer, corpus, t5_tokenizer
from training.trainer import Latents, Recipe, Trainer, attend, counted, velocity
from training.transformer import size_of


@pytest.fixture(scope="module")
def encoders() -> text.Text:
    words = corpus(300)
    torch.manual_seed(0)
    return text.Text(clip_tokenizer(words, 50), t5_tokenizer(words, 300)).eval().requires_grad_(False)


def trainer(encoders: text.Text, recipe: Recipe, device: str = "cpu", gains: torch.Tensor | None = None) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    latents: Latents = {
        "small": (torch.randn(4, 2, CHANNELS, 4, 8, generator=generator), [draw(seed) for seed in range(4)])
    }
    torch.manual_seed(3)
    return Trainer(build_transformer(1, 1, 1), encoders, latents, device, recipe=recipe, gains=gains)


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        (Recipe(), {"plain"}),
        (Recipe(padding=0), {"plain"}),
        (Recipe(padding=2, yaw=0.5), {"plain", "yaw"}),
        (Recipe(cube=0.5), {"plain", "cube"}),
        (Recipe(equivariance=0.5), {"plain", "equivariance"}),
        (Recipe(joints=0.5), {"plain", "joints"}),
    ],
)
def test_each_loss_is_there_when_it_is_asked_for(encoders: text.Text, recipe: Recipe, names: set[str]) -> None:
    found = trainer(encoders, recipe).losses("small", 2, 0, distil=False)
    assert set(found) == names
    assert all(values.shape == (2,) for values in found.values())


def test_every_loss_changes_what_is_learned(encoders: text.Text) -> None:
    weights = []
    recipes = [Recipe(), Recipe(padding=0)]
    recipes += [Recipe(yaw=0.5), Recipe(cube=0.5), Recipe(equivariance=0.5), Recipe(joints=1.0)]
    for recipe in recipes:
        one = trainer(encoders, recipe)
        for _ in range(3):  # the first steps only leave the zeros that the model starts with
            one.train_step("small", 2, 1e-2)
        weights.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    for number, first in enumerate(weights):
        assert all(not torch.equal(first, other) for other in weights[number + 1 :])


def test_errors_count_by_what_they_change_in_a_picture(encoders: text.Text) -> None:
    gains = torch.linspace(9, 1, CHANNELS)
    (counts,) = counted(gains, torch.tensor([0.5]))
    assert float((counts**2).mean()) == pytest.approx(1)
    assert float(counts[0] ** 2 / counts[-1] ** 2) == pytest.approx(3)
    assert torch.equal(counts[:4], counts[:1].expand(4))  # the four of a token
    assert torch.allclose(counted(gains, torch.zeros(2)), torch.ones(2, 4 * CHANNELS))

    plain, weighed = trainer(encoders, Recipe(cube=0.5)), trainer(encoders, Recipe(cube=0.5, importance=1), gains=gains)
    # The model begins with zero, so that the error is the target: as large in all channels.
    first, other = plain.losses("small", 2, 0, distil=False), weighed.losses("small", 2, 0, distil=False)
    assert torch.equal(first["plain"], other["plain"])
    for alike, counting in ((first["plain"], other["counted"]), (first["cube"], other["cube"])):
        assert torch.allclose(alike, counting, rtol=0.1)
        assert not torch.allclose(alike, counting, rtol=1e-4)
    with pytest.raises(ValueError, match="gains"):
        trainer(encoders, Recipe(importance=0.5))


def test_distilling_guides_all_but_the_first_quarter_towards_their_captions(encoders: text.Text) -> None:
    one = trainer(encoders, Recipe())
    before = one.losses("small", 4, 3, distil=False)["plain"]
    one.train_step("small", 4, 0.0, distil=True)
    assert one.teacher is not None
    for weights in one.teacher.parameters():  # one that has learned something
        torch.nn.init.normal_(weights, std=0.3)
    after = one.losses("small", 4, 3, distil=True)["plain"]
    captions = one.batch("small", 4, 3)[1]
    guided = [number > 0 and caption != "" for number, caption in enumerate(captions)]
    assert ((after - before).abs() > 0.1).tolist() == guided  # no caption has no pull
    assert sum(guided) == 2


def test_a_velocity_covers_the_real_columns(encoders: text.Text) -> None:
    model = build_transformer(1, 1, 1)
    words, pooled = encoders(["a castle"], 32)
    grid = torch.randn(1, 2, 4, 4 * CHANNELS)
    for padding in (0, 1, 3):
        out = velocity(model, grid, torch.ones(1), words, pooled, torch.ones(1), padding)
        assert out.shape == grid.shape


def test_attention_in_memory_is_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 9, 4, 8).unbind(0)
    fused = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), scale=0.3)
    assert torch.allclose(attend(q, k, v, scale=0.3), fused.transpose(1, 2), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_step_runs_on_a_gpu(encoders: text.Text) -> None:
    one = trainer(encoders, Recipe(yaw=0.5, cube=0.5, equivariance=0.5), "cuda")
    losses = [one.train_step("small", 2, 1e-2, distil=step > 1) for step in range(4)]
    assert all(loss == loss for loss in losses)
    encoders.to("cpu")


def test_windows_over_larger_pictures_are_seen_as_upscaling_sees_them(encoders: text.Text) -> None:
    wide = torch.randn(2, 2, CHANNELS, 64, 128, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    one = Trainer(build_transformer(1, 1, 1), encoders, {"double": (wide, [draw(0), draw(1)])}, recipe=Recipe(cube=0.5))
    seen = set()
    for seed in range(6):
        clean, _ = one.batch("double", 1, seed)
        top, left = one.window("double", seed)
        assert clean.shape == (1, 16, 32, 4 * CHANNELS)
        assert 0 <= top <= 16
        assert 0 <= left < 64
        # Somewhere in one of the pictures, in those rows.
        rows = wide.flatten(0, 1)[:, :, 2 * top : 2 * top + 32]
        found = [(rows.roll(turn, -1)[..., :64] == unpack(clean)).flatten(1).all(1).any() for turn in range(128)]
        assert sum(found) == 1
        ids = window_ids(2, (top, left))
        middle = ids.reshape(16, 32, 3)[7:9, 15:17].mean((0, 1))
        assert middle[1] == pytest.approx((top + 8) / 2 - 0.5)  # where it lies in a picture of the native size
        assert middle[2] == pytest.approx((left + 16) / 2 - 0.5 - (32 if left + 16 >= 64 else 0))
        seen.add((top, left))
    assert len(seen) > 1
    assert set(one.losses("double", 2, 0, distil=False)) == {"plain"}  # faces of a cube are of whole panoramas
    assert one.train_step("double", 2, 1e-3) > 0


def test_a_fifth_of_the_second_phase_is_windows_where_there_are_any() -> None:
    sizes = [size_of(0.8, step, 0.5, zoomed=ZOOMED) for step in range(120)]
    assert [sizes.count(name) for name in ("double", "fourfold")] == [12, 12]
    assert not {"double", "fourfold"} & {size_of(0.3, step, 0.5, zoomed=ZOOMED) for step in range(120)}
    assert not {"double", "fourfold"} & {size_of(0.8, step, 0.5) for step in range(120)}


def test_larger_pictures_that_are_encoded_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "LATENTS", tmp_path / "latents")
    monkeypatch.setattr(latents, "DATA", tmp_path)
    (tmp_path / "latents").mkdir()
    for kind, size in (("part", "small"), ("held", "large"), ("double", "double")):
        name = f"{kind}-00000"
        (tmp_path / f"{name}.json").write_text(json.dumps([draw(4).to_dict()]))
        checkpoint.save(
            tmp_path / "latents" / f"{name}-{size}.safetensors", {"latents": torch.zeros(1, 2, 4, 8, 8)}, {}
        )
    assert [size for size in latents.SIZES if latents.there(size)] == ["small", "double"]
    assert latents.read("double")[1] == [draw(4)]
