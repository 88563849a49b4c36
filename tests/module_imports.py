"""What the modules of a package import, as their text says it: at the top, inside functions, and for types alone."""

import ast
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Import:
    """module: what is imported, a module of the package's own where it is one. line: of the file, from 1.

    inside: of a function, so that it waits until that is called. types: under TYPE_CHECKING, so that it never happens.
    said: whether a comment on the line, or above the imports that it stands among, says why.
    """

    module: str
    line: int
    inside: bool
    types: bool
    said: bool


class Package:
    """All modules of a package: name → its imports. leave_out: folders in it that hold no code of its own."""

    def __init__(self, folder: Path, *, leave_out: tuple[str, ...] = ()) -> None:
        files = {
            _name(file.relative_to(folder.parent)): file
            for file in sorted(folder.rglob("*.py"))
            if not any(file.is_relative_to(folder / each) for each in leave_out)
        }
        self.files = files
        self.imports = {name: _imports(file, files) for name, file in files.items()}

    def circles(self) -> list[list[str]]:
        """Modules that import each other, directly or by way of others; imports of every kind count (Tarjan, 1972)."""
        follows = {name: {i.module for i in found} & set(self.files) - {name} for name, found in self.imports.items()}
        number: dict[str, int] = {}
        lowest: dict[str, int] = {}
        waiting: list[str] = []
        found: list[list[str]] = []

        def visit(name: str) -> None:
            number[name] = lowest[name] = len(number)
            waiting.append(name)
            for other in follows[name]:
                if other not in number:
                    visit(other)
                if other in waiting:
                    lowest[name] = min(lowest[name], lowest[other])
            if lowest[name] == number[name]:
                at = waiting.index(name)
                circle = waiting[at:]
                del waiting[at:]
                if len(circle) > 1:
                    found.append(sorted(circle))

        for name in self.files:
            if name not in number:
                visit(name)
        return found

    def brought_in(self, module: str) -> set[str]:
        """All that importing a module imports: modules of the package, and names of others' as they are written."""
        found: set[str] = set()
        left = [module]
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.files:
                left += [one.module for one in self.imports[name] if not one.inside and not one.types]
                left += [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
        return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, modules: dict[str, Path]) -> list[Import]:
    text = file.read_text("utf-8")
    lines = text.splitlines()
    found = []

    def visit(node: ast.AST, inside: bool, types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.extend(
                    Import(module=name, line=child.lineno, inside=inside, types=types, said=_said(lines, child))
                    for name in sorted(_named(child, modules))
                )
                continue
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            guarded = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            visit(child, inside or function, types or guarded)

    visit(ast.parse(text), False, False)
    return found


def _named(node: ast.Import | ast.ImportFrom, modules: dict[str, Path]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert not node.level, "imports are absolute here"
    inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {whole if whole in modules else str(node.module) for whole in inner.values()}


def _said(lines: list[str], node: ast.stmt) -> bool:
    """Whether a comment says why: behind it, or above the imports that it stands among."""
    if any("#" in line for line in lines[node.lineno - 1 : node.end_lineno]):
        return True
    before = [line.strip() for line in lines[: node.lineno - 1]]
    while before and before[-1].startswith(("import ", "from ")):
        before.pop()
    return bool(before) and before[-1].startswith("#")
