"""What every plugin's offer has to be, as tests that a plugin's author inherits with those of its kind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import attrs

from dit360_core.plugins.offers import PLUGIN_API, Offer
from dit360_core.system.machine import Machine

MACHINES = (
    Machine(),
    Machine(device="cuda", device_name="old", capability=(6, 1)),
    Machine(device="cuda", device_name="new", capability=(9, 0), fast_bfloat16=True),
    Machine(device="mps"),
)
"""Those about which an offer is asked, wherever its tests run."""


class OfferConformance:
    """What holds for every offer.

    module: the plugin.
    heavy: libraries that importing it must not import.
    """

    module: str = ""
    heavy: tuple[str, ...] = ("torch", "numpy", "diffusers", "transformers")
    kind: type[Offer] = Offer

    def offer(self) -> Any:
        """The offer under test."""
        raise NotImplementedError

    def test_importing_the_plugin_imports_nothing_heavy(self) -> None:
        code = f"import sys, {self.module}; print([name for name in {self.heavy!r} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]", f"it imports {done.stdout.strip()}"

    def test_the_offer_is_frozen_and_of_this_api(self) -> None:
        offer = self.offer()
        assert isinstance(offer, self.kind), f"it offers a {type(offer).__name__} where a {self.kind.__name__} belongs"
        assert offer.api == PLUGIN_API, f"it is written for plugin api {offer.api!r}, and this is {PLUGIN_API}"
        try:
            offer.name = "another"  # type: ignore[misc]
        except attrs.exceptions.FrozenInstanceError:
            return
        raise AssertionError("its name can be changed")
