"""The shipped judge tells renders apart; chance would be 20 to 50 %."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import judge
from training.evaluate import BOUNDS, met, unseen


@pytest.fixture(scope="module")
def renders():
    """Thirty pictures that nothing was trained on, and what is in them."""
    return unseen(30)


def test_the_shipped_judge_is_right_about_renders(renders) -> None:
    pictures, scenes = renders
    right = judge.accuracy(judge.load(), pictures, scenes)
    assert set(right) == set(judge.JUDGED)
    assert min(right.values()) >= 0.95, right


def test_blur_does_not_deceive_it(renders) -> None:
    pictures, scenes = renders
    small = torch.nn.functional.avg_pool2d(pictures[:30], 4)
    assert min(judge.accuracy(judge.load(), small, scenes[:30]).values()) >= 0.85


def test_it_judges_every_turn_alike(renders) -> None:
    pictures = renders[0][:10]
    rolled = pictures.roll(100, -1)
    assert judge.verdicts(judge.load(), pictures) == judge.verdicts(judge.load(), rolled)


def test_its_weights_are_small() -> None:
    assert Path(judge.WEIGHTS).stat().st_size < 2**20


def test_a_broken_promise_is_told() -> None:
    figures: dict[str, dict[str, float]] = {}
    for name, _, _ in BOUNDS:
        group, key = name.split(".")
        figures.setdefault(group, {})[key] = 1.0
    broken = [name for name, _, _, kept in met(figures) if not kept]
    assert broken == ["autoencoder.psnr", "structure.from_84"]
