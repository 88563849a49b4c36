"""AMD's cards, by the files of Linux's driver: https://docs.kernel.org/gpu/amdgpu/index.html (``amdkfd``)."""

from __future__ import annotations

from pathlib import Path

from dit360_core.system.devices.cards import Card


def cards(root: Path = Path("/")) -> tuple[Card, ...]:
    """In the order in which ROCm numbers them.

    root: where ``sys`` is.
    """
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*")
    found = []
    for node in sorted((each for each in nodes if each.name.isdigit()), key=lambda each: int(each.name)):
        about = _numbers(node / "properties")
        if not about.get("simd_count"):
            continue  # a processor
        target = about.get("gfx_target_version", 0)  # 90010 is gfx90a: the last two digits are hexadecimal in the name
        major, minor, step = target // 10000, target // 100 % 100, target % 100
        banks = [_numbers(file) for file in (node / "mem_banks").glob("*/properties")]
        unique = about.get("unique_id", 0)
        found.append(
            Card(
                name=f"AMD GPU (gfx{major}{minor:x}{step:x})",
                # Heap 1 and 2 are the card's own, what the host sees of it and what it does not.
                memory=sum(bank.get("size_in_bytes", 0) for bank in banks if bank.get("heap_type") in (1, 2)),
                capability=(major, minor),
                # Matrix instructions since gfx908 (MI100) and, of the cards for screens, since gfx11.
                fast_bfloat16=90008 <= target < 100000 or target >= 110000,
                uuid=f"GPU-{unique:016x}" if unique else "",
            )
        )
    return tuple(found)


def _numbers(file: Path) -> dict[str, int]:
    """Lines of a name and a whole number."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.strip().isdigit()}
