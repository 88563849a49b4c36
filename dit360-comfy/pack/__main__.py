"""``python dit360-comfy/pack``: writes what ComfyUI shows beside the nodes, all of it from the nodes themselves.

Help pages, the English of the nodes, example workflows, the viewer's brush, and the snapshot of the nodes' schema that
tests compare with. ``--check`` writes nothing, names what would change and exits with 1 if anything would.
``--thumbnails`` paints the pictures of the template browser in a real ComfyUI, which ``COMFYUI_DIR`` names, with the
embedded model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_nodes
from described import described
from examples import EXAMPLES
from help_pages import page
from translation import node_definitions

ROOT = Path(__file__).resolve().parent.parent.parent
NODE_PACK = ROOT / "dit360-comfy/src/dit360_comfy/node_pack"
SNAPSHOT = ROOT / "tests/comfy/node_schema.json"
LOCALE = NODE_PACK / "locales/en/nodeDefs.json"
PAGES = NODE_PACK / "web/docs"
WORKFLOWS = NODE_PACK / "example_workflows"
PAINTING = NODE_PACK / "web/painting"
BRUSH = ROOT / "dit360-core/src/dit360_core/panorama/page/painting"
"""What the core's viewer paints masks with: the node has a copy, which its web folder serves."""


def contents() -> dict[Path, str]:
    """Every file that is written, and what is to be in it."""
    nodes = described()
    known = {**comfy_nodes.NODES, **nodes}
    return {
        SNAPSHOT: _json(nodes),
        LOCALE: _json(node_definitions(nodes)),
        **{PAGES / f"{name}.md": page(name, node) for name, node in nodes.items()},
        **{
            WORKFLOWS / f"{example.name}.json": _json(example.saved(known, frozenset(nodes))) for example in EXAMPLES
        },
        **{PAINTING / path.name: path.read_text(encoding="utf-8") for path in sorted(BRUSH.iterdir())},
    }  # fmt: skip


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def changes(wanted: dict[Path, str]) -> Iterator[Path]:
    """Files that are not as they should be, and those in the same folders that nothing writes any more."""
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield path
    for folder, pattern in ((PAGES, "*.md"), (WORKFLOWS, "*.json"), (PAINTING, "*")):
        yield from (path for path in sorted(folder.glob(pattern)) if path not in wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything would change")
    parser.add_argument("--thumbnails", action="store_true", help="paint the thumbnails too, in COMFYUI_DIR's ComfyUI")
    given = parser.parse_args()
    wanted = contents()
    changed = list(changes(wanted))
    for path in changed:
        print(f"{path.relative_to(ROOT)} {'would change' if given.check else 'written'}")
    if given.check:
        return 1 if changed else 0
    for path in changed:
        if path not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    if given.thumbnails:
        from thumbnails import paint

        paint(WORKFLOWS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
