"""What pip has installed, by its metadata alone."""

from __future__ import annotations

from email.parser import Parser
from importlib import metadata


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, from its metadata, without importing it; None if it is not there, or
    if what is left of it names none, as after an installation that was interrupted."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    # Of wheels, of older installations, and of those that are one file. The README, which may follow, is left out:
    # with it reading a dozen versions takes longer than anything else that is asked of a machine.
    about = next(filter(None, map(found.read_text, ("METADATA", "PKG-INFO", ""))), "")
    return Parser().parsestr(about.partition("\n\n")[0], headersonly=True)["Version"]
