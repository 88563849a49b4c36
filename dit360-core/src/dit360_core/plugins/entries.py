"""An offer together with who made it."""

from __future__ import annotations

from typing import Any

import attrs

from dit360_core.errors import Reason

CORE = "dit360-core"


def with_owner(name: str, distribution: str, version: str) -> str:
    """The name of an offer, and whose it is if it is not the core's."""
    return name if distribution == CORE else f"{name} ({distribution} {version})"


@attrs.frozen(kw_only=True)
class Entry:
    """An offer and who made it.

    distribution: its name in the normal form, as pip shows it (lower case, hyphens).

    refused: why it may not even be considered (clash, api); empty if it may.
    """

    kind: str
    offer: Any
    distribution: str
    version: str
    refused: tuple[Reason, ...] = ()

    @property
    def name(self) -> str:
        return str(self.offer.name)

    @property
    def address(self) -> str:
        """``distribution:name``, which selects this offer and no other."""
        return f"{self.distribution}:{self.offer.name}"

    @property
    def origin(self) -> str:
        """Its name, and whose it is if it is not the core's."""
        return with_owner(self.name, self.distribution, self.version)

    @property
    def families(self) -> tuple[str, ...]:
        """What it answers to together with others of its distribution."""
        return (self.family, f"{self.distribution}:{self.family}") if self.family else ()

    @property
    def family(self) -> str:
        """Of an attention backend that has one; else empty."""
        return getattr(self.offer, "family", "")


def by_priority(entry: Entry) -> tuple[tuple[float, ...], str]:
    """Sorts entries into the order in which they are tried."""
    try:
        rank = tuple(float(part) for part in entry.offer.rank)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an offer of somebody's own class, whatever it raises
        rank = (float("inf"),)
    return rank, entry.name
