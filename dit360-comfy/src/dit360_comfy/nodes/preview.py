"""Equirect360Preview: look around in a panorama, in the node."""

from __future__ import annotations

from typing import Any

NODES: dict[str, type[Any]] = {}
