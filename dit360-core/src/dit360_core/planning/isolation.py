"""Plugins imported and asked in a process of their own, which one that crashes or exits ends instead of ours.

``python -m dit360_core.planning.isolation NAME…`` is that process: it writes a line to stderr before each.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from dit360_core.planning.catalogue import need_of
from dit360_core.plugins.choosing import judge
from dit360_core.plugins.hookspecs import KINDS
from dit360_core.plugins.registry import DISABLED, GROUP, Registry, origin_of
from dit360_core.system.children import ending, environment
from dit360_core.system.machine import Machine

_SIGN = "dit360 asks: "


def ending_plugins(patience: float = 60.0) -> dict[str, str]:
    """``distribution:entry point`` → how importing or asking it ended a process, for the plugins that do so here.

    One process imports and asks them all; only what comes after one that ended it is tried in another.

    patience: seconds after which one that says nothing is given up.
    """
    lost: dict[str, str] = {}
    left = Registry(entry_points=metadata.entry_points(group=GROUP)).wanted()
    while left:
        said, how = _ended(left, patience)
        tried = [line[len(_SIGN) :] for line in said.splitlines() if line.startswith(_SIGN)]
        if not tried or tried[-1] not in left:
            break
        lost[tried[-1]] = how
        left = left[left.index(tried[-1]) + 1 :]
    return lost


@contextlib.contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """Plugins that are left out in this block, here and in processes that are started in it."""
    before = os.environ.get(DISABLED)
    try:
        os.environ[DISABLED] = ",".join(filter(None, [before, *names]))
        yield
    finally:
        if before is None:
            os.environ.pop(DISABLED, None)
        else:
            os.environ[DISABLED] = before


def _ended(names: list[str], patience: float) -> tuple[str, str]:
    """What a process said that asks them all, and how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dit360_core.planning.isolation", *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=patience,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stderr or b"").decode(errors="replace"), f"nothing after {patience:.0f} s"
    return done.stderr.decode(errors="replace"), ending(done.returncode)


def _ask_all(names: list[str]) -> None:
    points = {f"{origin_of(point)[0]}:{point.name}": point for point in metadata.entry_points(group=GROUP)}
    machine = Machine.detect()
    for name in names:
        if name in points:
            # By its number: what a plugin makes of sys.stderr is its own.
            os.write(2, f"\n{_SIGN}{name}\n".encode())
            with contextlib.suppress(Exception):
                registry = Registry(builtin=[], entry_points=[points[name]])
                for kind in KINDS:
                    for entry in registry.entries(kind):
                        judge(entry, machine, need_of(kind, machine))
    os.write(2, f"\n{_SIGN}\n".encode())


if __name__ == "__main__":
    _ask_all(sys.argv[1:])
