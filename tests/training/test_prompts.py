"""The prompts that models are judged by ask for what they say they ask for."""

from __future__ import annotations

from training.prompts import ODD, held_out, paraphrases
from training.scenes import ATTRIBUTES


def test_there_are_enough_and_all_differ() -> None:
    texts = [prompt.text for prompt in held_out(240)]
    assert len(set(texts)) > 230
    assert len(paraphrases()) >= 50


def test_every_value_is_asked_for_often() -> None:
    prompts = held_out(240)
    for name in ("time", "ground", "landmark"):
        asked = [prompt.wanted[name] for prompt in prompts if name in prompt.wanted]
        assert all(asked.count(value) >= 20 for value in ATTRIBUTES[name])


def test_what_is_wanted_is_said() -> None:
    words = {"castle": ("castle", "fortress"), "night": ("night", "dark", "midnight"), "desert": ("desert", "sand")}
    for prompt in held_out(240) + paraphrases():
        if any(letter * 2 in prompt.text for letter in "xyz"):
            continue
        for value in set(prompt.wanted.values()) & set(words):
            near = [w for w in words[value] if w[:3] in prompt.text.lower() or w[-3:] in prompt.text.lower()]
            assert near, prompt


def test_odd_prompts_hold_what_people_type() -> None:
    assert any(len(prompt.split()) >= 300 for prompt in ODD)
    assert any("🏰" in prompt for prompt in ODD)
    assert any(prompt.isupper() for prompt in ODD)
