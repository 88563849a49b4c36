"""What pip has installed, by its metadata alone."""

from __future__ import annotations

from importlib import metadata


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, from its metadata, without importing it; None if it is not there, or
    if what is left of it names none, as after an installation that was interrupted."""
    try:
        about = metadata.metadata(distribution)
    except metadata.PackageNotFoundError:
        return None
    return about["Version"] if "Version" in about else None  # noqa: SIM401 - it has no get in its type
