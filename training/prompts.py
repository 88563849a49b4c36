"""The prompts that a model is judged by: captions of unseen scenes, and sentences of other makes than any caption."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.captions import told
from training.data import HELD_OUT_SEED
from training.scenes import draw

_FIRST = HELD_OUT_SEED + 1_000_000
"""Beyond the scenes that are rendered as unseen pictures, so that judge and model are asked about other ones."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and the values of the attributes that it settles."""

    text: str
    wanted: dict[str, str]


def held_out(count: int) -> list[Prompt]:
    """Captions of scenes that no training has seen, as varied as those of training, typos and capitals among them."""
    found = []
    for number in range(count):
        scene, dice = draw(_FIRST + number), random.Random(_FIRST + number)
        text, settled = told(scene, dice)
        found.append(Prompt(text, {name: getattr(scene, name) for name in sorted(settled)}))
    return found


_SENTENCES = (
    "{time}, {ground} stretches out below {landmark}",
    "in the foreground {ground}, in the distance {landmark}, {time}",
    "I stand on {ground} {time} and look at {landmark}",
    "view from {ground} towards {landmark} {time}",
    "{ground} {time}; on the horizon {landmark}",
    "there is {landmark} far away, and {ground} all around me, {time}",
    "a wide open scene: {landmark}, {ground}, {time}",
    "make a 360 picture with {landmark} and {ground}. it should be {time}",
)
_TIMES = {
    "noon": ("at noon", "by day", "in bright daylight"),
    "sunset": ("at sunset", "in the evening", "at dusk"),
    "dawn": ("at dawn", "at sunrise", "in the early morning"),
    "night": ("at night", "after dark", "at midnight"),
}
_GROUNDS = {
    "sea": ("the sea", "a calm ocean", "open water"),
    "meadow": ("a meadow", "green grass", "a grassy field"),
    "desert": ("a desert", "desert sand", "a sandy plain"),
    "snow": ("deep snow", "a snowy field", "a field of snow"),
    "plaza": ("a stone plaza", "a paved square", "stone pavement"),
}
_LANDMARKS = {
    "mountains": ("high mountains", "a mountain range", "snowy mountains"),
    "forest": ("a forest", "tall trees", "the woods"),
    "city": ("a city skyline", "skyscrapers", "a modern city"),
    "castle": ("a castle", "an old castle", "a medieval castle"),
}
_ROOMS = (
    "i would like to see a bedroom with {walls} walls",
    "indoors: a living room with a sofa, {walls} walls",
    "the inside of a room, there is a table, the walls are {walls}",
    "a study with a bookcase and {walls} walls, please",
)


def paraphrases(count: int = 60) -> list[Prompt]:
    """Sentences of a make that no caption has, of words that captions have; every sixth is about a room."""
    dice = random.Random(11)
    found = []
    for number in range(count):
        if number % 6 == 5:
            walls = dice.choice(("white", "blue", "green", "red", "yellow"))
            found.append(Prompt(dice.choice(_ROOMS).format(walls=walls), {"kind": "room"}))
            continue
        wanted = {
            "time": dice.choice(list(_TIMES)),
            "ground": dice.choice(list(_GROUNDS)),
            "landmark": dice.choice(list(_LANDMARKS)),
        }
        text = _SENTENCES[number % len(_SENTENCES)].format(
            time=dice.choice(_TIMES[wanted["time"]]),
            ground=dice.choice(_GROUNDS[wanted["ground"]]),
            landmark=dice.choice(_LANDMARKS[wanted["landmark"]]),
        )
        found.append(Prompt(text, {"kind": "outdoor", **wanted}))
    return found


ODD = (
    "a fortress on an alpine pasture when the sun goes down",
    "CASTLE BY THE SEA AT NIGHT!!!",
    "a casle abvoe a medow at sunest",
    "snwoy mountians at nooon",
    "🏰🌅",
    "a castle 🏰 at sunset 🌅",
    "夕日の城",
    "ein Schloss am Meer bei Nacht",
    "a dragon riding a bicycle",
    "x",
    " ".join(["a calm sea under a clear blue sky at noon with mountains"] * 27),
    "wide panorama of a city skyline across the water at night, stars, reflections, highly detailed, 8k, masterpiece",
)
"""Whatever people type: each must give a sensible picture, and none may fail."""
