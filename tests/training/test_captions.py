"""Captions are true, varied and reproducible."""

from __future__ import annotations

import random

from training.captions import HELD_OUT_PROMPTS, PREFIX, caption
from training.scenes import Scene, draw


def lines(scene: Scene, count: int = 200) -> list[str]:
    dice = random.Random(0)
    return [caption(scene, dice).lower() for _ in range(count)]


def test_most_captions_name_the_landmark() -> None:
    words = lines(Scene(0, landmark="castle"))
    assert sum("castle" in line or "fortress" in line for line in words) > 190


def test_a_caption_never_names_another_time() -> None:
    for line in lines(Scene(0, time="noon")):
        assert not {"night", "sunset", "dawn", "moon"} & set(line.replace(".", "").replace(",", "").split())


def test_wordings_vary() -> None:
    assert len(set(lines(Scene(0, time="night", ground="sea", landmark="city")))) > 150


def test_some_captions_have_the_prefix_of_dit360() -> None:
    assert 20 < sum(line.startswith(PREFIX.lower().strip()) for line in lines(draw(5))) < 70


def test_the_same_dice_give_the_same_caption() -> None:
    assert caption(draw(9), random.Random(4)) == caption(draw(9), random.Random(4))


def test_lengths_stay_within_forty_words() -> None:
    dice = random.Random(1)
    counts = [len(caption(draw(seed), dice).split()) for seed in range(300)]
    assert min(counts) <= 3
    assert max(counts) <= 45
    assert len(HELD_OUT_PROMPTS) == 12
