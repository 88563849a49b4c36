"""What may be seen: the parameters of one scene, drawn at random with balanced attributes.

A scene is a small frozen record. It holds words (what a caption may mention) and a seed (everything a caption
does not mention: positions, sizes, textures). The same record always gives the same picture.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

TIMES = ("noon", "sunset", "dawn", "night")
SKIES = ("clear", "cloudy", "overcast")
GROUNDS = ("sea", "meadow", "desert", "snow", "plaza")
LANDMARKS = ("none", "mountains", "forest", "city", "castle")
WEATHERS = ("none", "fog", "snowfall")
WALLS = ("white", "blue", "green", "red", "yellow")
FLOORS = ("wooden", "tiled", "carpeted")
FURNITURE = ("bed", "table", "sofa", "bookshelf")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("outdoor", "room"),
    "time": TIMES,
    "sky": SKIES,
    "ground": GROUNDS,
    "landmark": LANDMARKS,
    "weather": WEATHERS,
    "moon": ("no", "yes"),
    "peaks": ("bare", "snowy"),
    "walls": WALLS,
    "floor": FLOORS,
    "furniture": FURNITURE,
}
"""Every attribute that a caption can mention, and its values."""

ROOM_SHARE = 0.15
_OUTDOOR = ("time", "sky", "ground", "landmark", "weather", "moon", "peaks")
_ROOM = ("time", "walls", "floor", "furniture")


@dataclass(frozen=True)
class Scene:
    """One scene. For a room the outdoor words have no meaning except `time`, and the other way round."""

    seed: int
    kind: str = "outdoor"
    time: str = "noon"
    sky: str = "clear"
    ground: str = "meadow"
    landmark: str = "none"
    weather: str = "none"
    moon: str = "no"
    peaks: str = "bare"
    walls: str = "white"
    floor: str = "wooden"
    furniture: str = "table"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)

    def relevant(self) -> tuple[str, ...]:
        """Names of the attributes that this scene's picture shows, `kind` first."""
        if self.kind == "room":
            return ("kind", *_ROOM)
        names = ["kind", *_OUTDOOR]
        if self.landmark != "mountains":
            names.remove("peaks")
        if self.time != "night":
            names.remove("moon")
        return tuple(names)


def draw(seed: int) -> Scene:
    """A random scene; a given `seed` (any non-negative integer) always gives the same one."""
    dice = random.Random(seed)
    if dice.random() < ROOM_SHARE:
        return Scene(
            seed=seed,
            kind="room",
            time=dice.choice(("noon", "noon", "sunset", "night")),
            walls=dice.choice(WALLS),
            floor=dice.choice(FLOORS),
            furniture=dice.choice(FURNITURE),
        )
    time = dice.choice(TIMES)
    ground = dice.choice(GROUNDS)
    sky = dice.choices(SKIES, (0.45, 0.38, 0.17))[0]
    landmark = dice.choices(LANDMARKS, (0.2, 0.2, 0.2, 0.2, 0.2))[0]
    if time in ("sunset", "dawn") and sky == "overcast":
        sky = "cloudy"
    weather = dice.choices(WEATHERS, (0.8, 0.14, 0.06))[0]
    if weather == "snowfall":
        ground = dice.choice(("snow", "snow", "plaza", "sea"))
        sky = "overcast"
        time = dice.choice(("noon", "noon", "night"))
    peaks = "bare"
    if landmark == "mountains" and (ground == "snow" or dice.random() < 0.5):
        peaks = "snowy"
    moon = "yes" if time == "night" and sky != "overcast" and dice.random() < 0.55 else "no"
    return Scene(
        seed=seed, time=time, sky=sky, ground=ground, landmark=landmark, weather=weather, moon=moon, peaks=peaks
    )
