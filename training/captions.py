"""Says in English what a scene shows: many wordings, short and long, in any order, with and without capitals."""

from __future__ import annotations

import random

from training.scenes import Scene

PREFIX = "This is a panorama. The image shows "
"""The prefix that DiT360 puts before every prompt."""

_FRAMES = (
    "a 360 panorama of {}", "a panorama of {}", "a 360 degree view of {}", "an equirectangular view of {}",
    "a photo of {}", "a picture of {}", "a beautiful view of {}", "{}, 360 panorama", "{}, panorama", "a scene with {}",
)  # fmt: skip
_TIME: dict[str, tuple[str, ...]] = {
    "noon": ("at noon", "at midday", "by day", "in daylight", "during the day", "in bright daylight", "at daytime"),
    "sunset": ("at sunset", "at dusk", "in the evening", "in the evening light", "as the sun goes down",
               "at golden hour"),
    "dawn": ("at dawn", "at sunrise", "in the early morning", "at daybreak", "as the sun rises", "in the morning"),
    "night": ("at night", "by night", "at nighttime", "in the night", "after dark", "at midnight"),
}  # fmt: skip
_GROUND: dict[str, tuple[str, ...]] = {
    "sea": ("a calm sea", "the sea", "the ocean", "a calm ocean", "open water", "a lake", "a wide lake", "blue water",
            "the water", "a quiet sea"),
    "meadow": ("a meadow", "a green meadow", "a grassy field", "green grass", "a green field", "a grassland", "a lawn",
               "grassy plains"),
    "desert": ("a desert", "a sandy desert", "sand", "a sandy plain", "desert sand", "a hot desert", "the desert",
               "a sandy beach"),
    "snow": ("a snowy field", "a snowy plain", "snow", "a field of snow", "a snow covered plain",
             "a white winter landscape", "deep snow"),
    "plaza": ("a stone plaza", "a paved square", "a plaza", "a stone square", "a paved plaza", "a town square",
              "stone pavement"),
}  # fmt: skip
_LANDMARK: dict[str, tuple[str, ...]] = {
    "mountains": ("mountains", "high mountains", "a mountain range", "mountain peaks", "rocky mountains",
                  "tall mountains"),
    "snowy mountains": ("snowy mountains", "snow capped mountains", "snow covered mountains", "snowy peaks",
                        "a snowy mountain range", "white mountain peaks"),
    "forest": ("a forest", "tall trees", "a dense forest", "trees", "the woods", "a green forest", "a line of trees"),
    "city": ("a city skyline", "a city", "skyscrapers", "tall buildings", "a big city", "city towers", "a skyline",
             "a modern city"),
    "castle": ("a castle", "an old castle", "a medieval castle", "a castle on a hill", "a stone castle",
               "a fairytale castle", "a fortress"),
}  # fmt: skip
_OVER: dict[str, tuple[str, ...]] = {
    "sea": ("across {}", "beside {}", "over {}", "reflected in {}", "by {}", "behind {}"),
    "meadow": ("above {}", "behind {}", "around {}", "beyond {}", "at the edge of {}", "in {}"),
    "desert": ("in {}", "above {}", "behind {}", "beyond {}", "around {}"),
    "snow": ("above {}", "behind {}", "in {}", "around {}", "beyond {}"),
    "plaza": ("behind {}", "around {}", "beyond {}", "seen from {}", "above {}"),
}
_SKY: dict[str, tuple[str, ...]] = {
    "clear": ("a clear sky", "a cloudless sky", "clear skies", "an open sky"),
    "clear noon": ("a clear blue sky", "a blue sky", "a cloudless blue sky", "a sunny sky", "a bright sun"),
    "clear sunset": ("an orange sky", "a glowing red sky", "a clear evening sky"),
    "clear dawn": ("a pink sky", "a pale pink sky", "a clear morning sky"),
    "clear night": ("a starry sky", "a starry night sky", "many stars", "a sky full of stars", "bright stars"),
    "cloudy": ("clouds", "a cloudy sky", "drifting clouds", "scattered clouds", "some clouds in the sky"),
    "cloudy noon": ("white clouds", "a blue sky with white clouds", "fluffy clouds"),
    "cloudy sunset": ("glowing clouds", "orange clouds", "red clouds"),
    "cloudy dawn": ("pink clouds", "soft pink clouds"),
    "cloudy night": ("clouds and stars", "night clouds"),
    "overcast": ("an overcast sky", "a grey sky", "a gray overcast sky", "a dull grey sky", "heavy clouds"),
}
_MOON = ("a full moon", "the moon", "a bright moon", "moonlight", "the moon in the sky")
_WEATHER: dict[str, tuple[str, ...]] = {
    "fog": ("in fog", "in thick fog", "in the mist", "in foggy weather", "covered in mist", "on a foggy day"),
    "snowfall": ("in falling snow", "while it snows", "in a snowfall", "with snowflakes falling", "in a snow storm"),
}
_ROOM = ("a room", "the inside of a room", "an interior", "a room indoors", "a living room", "an indoor room")
_ROOM_OF: dict[str, tuple[str, ...]] = {
    "bed": ("a bedroom", "a room with a bed", "a bedroom with a bed"),
    "table": ("a dining room", "a room with a table", "a room with a wooden table"),
    "sofa": ("a living room with a sofa", "a room with a sofa", "a lounge with a couch", "a room with a couch"),
    "bookshelf": ("a room with a bookshelf", "a library room with books", "a study with a bookcase",
                  "a room full of books"),
}  # fmt: skip
_WALLS = ("with {} walls", "with {} painted walls", "whose walls are {}")
_FLOOR: dict[str, tuple[str, ...]] = {
    "wooden": ("a wooden floor", "wood planks on the floor", "a floor of wood"),
    "tiled": ("a tiled floor", "a checkered floor", "floor tiles"),
    "carpeted": ("a carpet", "a carpeted floor", "a soft carpet"),
}


def caption(scene: Scene, dice: random.Random) -> str:
    """A random true caption of `scene`, of 1 to about 40 words."""
    return told(scene, dice)[0]


def told(scene: Scene, dice: random.Random) -> tuple[str, frozenset[str]]:
    """A caption, and which of kind, time, ground and landmark it settles. No word of a landmark settles that too."""
    text, settled = _room(scene, dice) if scene.kind == "room" else _outdoors(scene, dice)
    style = dice.random()
    if style < 0.22:
        text = PREFIX + text
    elif style < 0.50:
        text = dice.choice(_FRAMES).format(text)
    if dice.random() < 0.12:
        text = _typo(text, dice)
    letters = dice.random()
    if letters < 0.35:
        text = text[0].upper() + text[1:]
    elif letters < 0.40:
        text = text.upper()
    elif letters < 0.45:
        text = text.title()
    if dice.random() < 0.3:
        text += "."
    return text, settled


def _landmark(scene: Scene, dice: random.Random) -> str:
    name = scene.landmark
    if name == "mountains" and scene.peaks == "snowy" and dice.random() < 0.8:
        name = "snowy mountains"
    words = dice.choice(_LANDMARK[name])
    if scene.landmark == "forest" and scene.ground == "snow" and dice.random() < 0.5:
        words = dice.choice(("a snowy forest", "a winter forest", "snowy trees"))
    return words


def _sky(scene: Scene, dice: random.Random) -> str:
    words = list(_SKY[scene.sky]) + 2 * list(_SKY.get(f"{scene.sky} {scene.time}", ()))
    return dice.choice(words)


def _outdoors(scene: Scene, dice: random.Random) -> tuple[str, frozenset[str]]:
    """Ground and landmark in one phrase, then time, sky, moon and weather in a random order, each perhaps left out."""
    settled = {"kind", "ground", "landmark"}
    ground = dice.choice(_GROUND[scene.ground])
    if scene.landmark == "none":
        subject = ground
        if dice.random() < 0.06:
            subject = dice.choice(("an empty landscape of {}", "a view over {}", "a landscape with {}")).format(ground)
    elif dice.random() < 0.70:
        subject = _landmark(scene, dice) + " " + dice.choice(_OVER[scene.ground]).format(ground)
    elif dice.random() < 0.55:
        joint = dice.choice(("with", "and", "surrounded by", "in front of", "and behind it"))
        subject = f"{ground} {joint} {_landmark(scene, dice)}"
    else:
        subject = _landmark(scene, dice)
        settled.remove("ground")
    extras: list[str] = []
    if dice.random() < 0.88:
        settled.add("time")
        extras.append(dice.choice(_TIME[scene.time]))
    if dice.random() < (0.85 if scene.sky == "overcast" and scene.weather == "none" else 0.5):
        extras.append(dice.choice(("under", "below", "with", "beneath")) + " " + _sky(scene, dice))
    if scene.moon == "yes" and dice.random() < 0.6:
        extras.append(dice.choice(("with", "under", "lit by")) + " " + dice.choice(_MOON))
    if scene.weather != "none" and dice.random() < 0.92:
        extras.append(dice.choice(_WEATHER[scene.weather]))
    dice.shuffle(extras)
    if extras and dice.random() < 0.1:
        first = extras.pop()
        return f"{first}, {subject}" + _joined(extras, dice), frozenset(settled)
    return subject + _joined(extras, dice), frozenset(settled)


def _joined(extras: list[str], dice: random.Random) -> str:
    mark = dice.choice((" ", " ", ", "))
    return "".join(mark + extra for extra in extras)


def _room(scene: Scene, dice: random.Random) -> tuple[str, frozenset[str]]:
    subject = dice.choice(_ROOM_OF[scene.furniture]) if dice.random() < 0.8 else dice.choice(_ROOM)
    settled = {"kind"}
    extras: list[str] = []
    if dice.random() < 0.7:
        form = dice.choice(_WALLS)
        extras.append(form.format(scene.walls))
    if dice.random() < 0.6:
        extras.append(("and " if extras else "with ") + dice.choice(_FLOOR[scene.floor]))
    if dice.random() < 0.6:
        settled.add("time")
        extras.append(dice.choice(_TIME[scene.time]))
    if dice.random() < 0.2:
        extras.append(dice.choice(("with a window", "with windows", "with a lamp on the ceiling")))
    return subject + _joined(extras, dice), frozenset(settled)


def _typo(text: str, dice: random.Random) -> str:
    """One slip of the keyboard: a letter dropped, doubled or swapped with the next."""
    place = dice.randrange(1, max(2, len(text) - 1))
    kind = dice.randrange(3)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + text[place] + text[place:]
    return text[:place] + text[place + 1 : place + 2] + text[place] + text[place + 2 :]


HELD_OUT_PROMPTS = (
    "a castle above a meadow at sunset",
    "a calm sea under a starry night sky",
    "snowy mountains at noon",
    "a desert at dawn",
    "a city skyline at night across the water",
    "a forest in fog",
    "a stone plaza with an old castle under a cloudy sky",
    "a bedroom with blue walls and a wooden floor",
    "a snowy field at night",
    "a green meadow and mountains under white clouds",
    "the ocean at sunset with glowing clouds",
    "This is a panorama. The image shows a city around a paved square at midday under a clear blue sky.",
)
"""The prompts of the contact sheet."""
