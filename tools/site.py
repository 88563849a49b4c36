"""The documents as a site: `make site`. And whether every link in them leads somewhere: `make lint`.

    python tools/site.py            # writes site/, to be looked at by opening site/index.html
    python tools/site.py --check    # only the links

The pages are the documents as they lie in the repository, gathered in one folder with their links set right, and a
reference from the docstrings. A link to a file that is no document becomes its name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import attrs
import typer

ROOT = Path(__file__).parents[1]
GATHERED = ROOT / "build" / "site"
CONFIG = ROOT / "mkdocs.yml"
_LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^\s*```")
_REFERENCE = {
    "Pictures": ("dit360_core.load", "dit360_core.pipeline.pipeline.Pipeline", "dit360_core.panorama.picture.Panorama",
                 "dit360_core.panorama.photos.Photo"),
    "Many pictures": ("dit360_core.batching.Batch",),
    "Options": ("dit360_core.options.load.LoadOptions", "dit360_core.options.sample.SampleOptions",
                "dit360_core.options.decode.DecodeOptions", "dit360_core.options.edit.EditOptions",
                "dit360_core.options.larger.LargerOptions"),
    "Plugins": ("dit360_core.plugins",),
}  # fmt: skip
"""What the reference shows, by heading."""


@attrs.frozen
class Link:
    """A link in a document. text: as it is shown."""

    document: Path
    line: int
    text: str
    target: str


def pages() -> dict[Path, str]:
    """Document → its path in the site."""
    found = {
        ROOT / "README.md": "index.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "CONTRIBUTING.md": "contributing.md",
    }
    found |= {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    found |= {path: f"benchmarks/{path.name}" for path in sorted((ROOT / "docs" / "benchmarks").glob("*.md"))}
    found |= {path: f"{path.parent.name}.md" for path in sorted(ROOT.glob("dit360-*/README.md"))}
    others = ("training", "examples", "dit360-core/src/dit360_core/models/shipped/tiny")
    found |= {
        ROOT / name / "README.md": f"{Path(name).name}.md" for name in others if (ROOT / name / "README.md").exists()
    }
    return found


def lines_of(document: Path) -> Iterator[tuple[int, str, bool]]:
    """(number, line, whether it is code) of a document."""
    fenced = False
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        mark = bool(_FENCE.match(line))
        yield number, line, fenced or mark
        fenced ^= mark


def links() -> Iterator[Link]:
    """All links of all documents."""
    for document in pages():
        for number, line, code in lines_of(document):
            if not code:
                plain = re.sub(r"`[^`]*`", lambda found: "x" * len(found[0]), line)
                yield from (Link(document, number, one[2], one[3]) for one in _LINK.finditer(plain))


def anchors(document: Path) -> set[str]:
    """What a link may name in a document, as GitHub makes it of headings."""
    found: set[str] = set()
    for _, line, code in lines_of(document):
        heading = re.match(r"#+\s+(.*?)\s*#*$", line)
        if heading and not code:
            found.add(_slug(heading[1]))
    return found


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().replace("`", "")
    kept = "".join(c for c in text if c.isalnum() or c in " -_" or unicodedata.category(c) == "Mn")
    return kept.lstrip().replace(" ", "-")


def broken() -> list[str]:
    """A sentence for each link that leads nowhere."""
    told = []
    for link in links():
        if re.match(r"[a-z]+:", link.target):
            continue
        path, _, anchor = link.target.partition("#")
        target = (link.document.parent / path).resolve() if path else link.document
        where = f"{link.document.relative_to(ROOT)}:{link.line}"
        if not target.exists():
            told.append(f"{where}: there is no {link.target}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            told.append(f"{where}: {link.target} names no heading")
    return told


def gather() -> None:
    """Puts the pages into one folder, their links among each other set right."""
    shutil.rmtree(GATHERED, ignore_errors=True)
    known = pages()
    for document, name in known.items():
        out = GATHERED / name
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = [line if code else _LINK.sub(lambda one: _moved(one, document, out, known), line)  # noqa: B023
                 for _, line, code in lines_of(document)]  # fmt: skip
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    parts = ["# Reference\n"]
    for title, names in _REFERENCE.items():
        parts += [f"## {title}\n", *(f"::: {name}\n" for name in names)]
    (GATHERED / "reference.md").write_text("\n".join(parts), encoding="utf-8")


def _moved(found: re.Match[str], document: Path, out: Path, known: dict[Path, str]) -> str:
    picture, text, target = found[1], found[2], found[3]
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return found[0]
    path, sign, anchor = target.partition("#")
    source = (document.parent / path).resolve()
    up = "../" * (len(out.relative_to(GATHERED).parts) - 1)
    if source in known:
        return f"{picture}[{text}]({up}{known[source]}{sign}{anchor})"
    if picture:
        copied = GATHERED / "images" / f"{source.parent.name}-{source.name}"
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copied)
        return f"![{text}]({up}images/{copied.name})"
    return f"{text} (`{source.relative_to(ROOT).as_posix()}`)"


def main(check: Annotated[bool, typer.Option("--check", help="Only look at the links.")] = False) -> None:
    """Builds the site, or checks the links of the documents."""
    wrong = broken()
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if wrong:
        raise typer.Exit(1)
    if check:
        print(f"{sum(1 for _ in links())} links lead somewhere.")
        return
    gather()
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(CONFIG)], check=True)


if __name__ == "__main__":
    typer.run(main)
