"""Runs the tests on wheels of dist/ with the sources out of the way: ``make test-wheels``, ``make check-versions``.

    together   all distributions, with the versions of constraints.txt
    alone      each distribution alone with the core, and its own tests
    oldest     the oldest versions that are claimed (constraints-oldest.txt), with the oldest core that each claims
    newest     the newest versions on the index, with the newest core that each claims

The last two take PyTorch as the index has it, for Linux the build for CUDA: some gigabytes, and no GPU is needed.

Tests are copied to a temporary folder with what they need from the repository, and without what tests the repository
itself.

    python tools/check_tests.py [together] [alone] [oldest] [newest] [--quick | --whole] [--keep]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

from environments import ROOT, Environment, Failed, fail, merged, metadata_of, table, version_of, wheels

CORE = "dit360-core"
# What tests import or read beside wheels: measurements that a test repeats, a page whose examples are tried, examples.
NEEDED = ("tests", "bench", "docs", "examples", "pyproject.toml", "README.md", "constraints.txt")
LEFT_OUT = {
    "tests/training": "training/ is in no wheel",
    "tests/documents/test_blocks.py": "runs the documents and the Makefile of the repository",
    "tests/packaging/test_wheel.py": "builds wheels from the sources",
    "tests/comfy/test_pack.py": "runs dit360-comfy/pack, which writes into the sources",
    "tests/gpu": "needs a CUDA device",
}
# The core's ways through its dependencies: reading, painting, LoRAs, quantization, offloading, files, the command line.
QUICK = [
    "test_added_loras.py",
    "test_attention.py",
    "test_cli_bad_input.py",
    "test_composed.py",
    "test_generate.py",
    "test_hookspecs.py",
    "test_loading.py",
    "test_lora.py",
    "test_metadata.py",
    "test_offloading.py",
    "test_options.py",
    "test_panorama.py",
    "test_plugins_installed.py",
    "test_quantization.py",
    "test_registry.py",
    "test_schedulers.py",
]
# The same without those that choose among backends that plugins bring, or that expect names to be taken by them.
WITH_PLUGINS = ("test_cli_bad_input.py", "test_plugins_installed.py", "test_quantization.py")
BARE = [name for name in QUICK if name not in WITH_PLUGINS]
TOOLS = ["pytest", "hypothesis", "hatchling", "editables"]


def folder_of(distribution: str) -> str:
    """Where a distribution's tests are: dit360-attn-flash → attn_flash."""
    return distribution.removeprefix("dit360-").replace("-", "_")


def copy_tests(target: Path) -> None:
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "results", "images"))
        else:
            shutil.copy(source, target / name)
    for name in LEFT_OUT:
        left = target / name
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def core_range(wheel: Path) -> tuple[str, str]:
    """The bounds of a distribution's claim: ("0.1", "1") for dit360-core>=0.1,<1, whose form tests/packaging keeps."""
    for needed in metadata_of(wheel, "Requires-Dist"):
        if bounds := re.fullmatch(r"dit360-core<([\d.]+),>=([\d.]+)", needed):
            return bounds[2], bounds[1]
    raise Failed(f"{wheel.name} does not say which core it needs")


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def cores(plugin: Path, releases: Iterable[Path]) -> list[Path]:
    """The wheels of the core that a distribution claims to work with, from the oldest on."""
    least, below = core_range(plugin)
    found = [wheels()[CORE], *(path for folder in releases for path in folder.glob("dit360_core-*.whl"))]
    claimed = [path for path in found if numbers(least) <= numbers(version_of(path)) < numbers(below)]
    return sorted(claimed, key=lambda path: numbers(version_of(path)))


def dev_tools() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return list(tomllib.load(file)["dependency-groups"]["dev"])


class Run:
    """One environment, its constraints, and what was counted in it."""

    def __init__(self, name: str, base: Path, tests: Path, constraints: Path | None) -> None:
        self.name = name
        self._folder = base / name.replace(" ", "-")
        self._tests = tests
        self._constraints = [constraints] if constraints else []
        self._environment = Environment(self._folder)
        self._counted: list[dict[str, object]] = []

    def install(self, *requirements: str) -> None:
        self._environment.install(*requirements, constraints=self._constraints)

    def plugins(self) -> list[str]:
        return sorted(name for name in self._environment.installed() if name in wheels() and name != CORE)

    def test(self, title: str, *where: str) -> dict[str, object]:
        """A row of the table. The last line of pytest says what happened."""
        started = time.monotonic()
        paths = [str(self._tests / each) for each in where]
        command: list[str | Path] = [self._environment.python, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
        command += ["--rootdir", self._tests, "-c", self._tests / "pyproject.toml"]
        # Compilers are on the PATH again: tests build broken extensions with them, and torch.compile needs one.
        here = {"PATH": f"{self._environment.bin}{os.pathsep}{os.environ['PATH']}", "CC": "cc", "CXX": "c++"}
        said = self._environment.run(*command, *paths, timeout=7200, codes=(0, 1, 2, 5), **here)
        last = said.strip().splitlines()[-1]
        print(f"{self.name}: {title}: {last}", flush=True)
        wrong = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print("".join(f"    {line[:200]}\n" for line in wrong), end="", flush=True)
        versions = self._environment.installed()
        return {
            "run": self.name,
            "tests": title,
            "core": versions[CORE],
            "torch": versions["torch"],
            "diffusers": versions["diffusers"],
            "transformers": versions["transformers"],
            "pluggy": versions["pluggy"],
            "result": re.sub(r" in [\d.]+s.*", "", last),
            "minutes": f"{(time.monotonic() - started) / 60:.1f}",
        }

    def close(self, keep: bool) -> None:
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)


def core_tests(tests: Path, quick: bool) -> list[str]:
    if quick:
        return [f"tests/core/{name}" for name in QUICK]
    return [
        "tests/core",
        *(f"tests/{name}" for name in ("faults", "packaging") if any((tests / "tests" / name).glob("test_*"))),
    ]


def together(base: Path, tests: Path, given: argparse.Namespace) -> list[dict[str, object]]:
    run = Run("together", base, tests, ROOT / "constraints.txt")
    try:
        run.install(*(str(path) for path in wheels().values()), *dev_tools())
        own = [f"tests/{folder_of(name)}" for name in wheels() if name != CORE]
        rows = [run.test("the core's", *core_tests(tests, given.quick)), run.test("of all plugins", *own)]
    finally:
        run.close(given.keep)
    return rows


def wanted(name: str) -> str:
    """A plugin with the library that its tests try; of kernels, only xFormers installs without a GPU."""
    return f"{name}[xformers]" if name == "dit360-attn-xformers" else name


def alone(base: Path, tests: Path, given: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    for name, wheel in wheels().items():
        run = Run(f"alone {folder_of(name)}", base, tests, ROOT / "constraints.txt")
        try:
            run.install(f"{wanted(name)}=={version_of(wheel)}", *TOOLS)
            others = [other for other in run.plugins() if other != name]
            if others:
                raise Failed(f"{name} brings {others}")
            where = [f"tests/core/{each}" for each in BARE] if name == CORE else [f"tests/{folder_of(name)}"]
            rows.append(run.test("its own", *where))
        finally:
            run.close(given.keep)
    return rows


def versions(name: str, base: Path, tests: Path, given: argparse.Namespace) -> list[dict[str, object]]:
    """All plugins with each end of the range: the oldest or newest dependencies, and core."""
    constraints = None
    if name == "oldest":
        # What tests need besides is in constraints.txt, whose xFormers is one for a newer PyTorch.
        rest = base / "rest.txt"
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        rest.write_text("".join(pin for pin in pins if not pin.startswith("xformers==")), encoding="utf-8")
        constraints = merged(base / "oldest.txt", ROOT / "constraints-oldest.txt", rest)
    run = Run(name, base, tests, constraints)
    try:
        every = [path for distribution, path in wheels().items() if distribution != CORE]
        ends = {}
        for plugin in every:
            claimed = cores(plugin, given.releases)
            ends[plugin] = claimed[0 if name == "oldest" else -1]
            told = ", ".join(dict.fromkeys(version_of(path) for path in claimed))
            print(f"{name}: {plugin.name} claims core >={', <'.join(core_range(plugin))}; there is {told}", flush=True)
        rows = []
        for core in dict.fromkeys(ends.values()):
            with_it = [plugin for plugin in every if ends[plugin] == core]
            names = [metadata_of(plugin, "Name")[0] for plugin in with_it]
            asked = names if name == "oldest" else [wanted(each) for each in names]
            plugins = [f"{n}=={version_of(p)}" for n, p in zip(asked, with_it, strict=True)]
            run.install(str(core), *plugins, *TOOLS)
            if core == wheels()[CORE]:
                rows.append(run.test("the core's", *core_tests(tests, quick=not given.whole)))
            rows.append(run.test("of plugins", *(f"tests/{folder_of(each)}" for each in names)))
    finally:
        run.close(given.keep)
    return rows


def main() -> None:
    known = ("together", "alone", "oldest", "newest")
    asked = argparse.ArgumentParser(description="Runs the tests against the wheels in dist/.")
    asked.add_argument("which", nargs="*", help=f"of {', '.join(known)}; the first two if none is named")
    asked.add_argument("--versions", action="store_true", help="the last two if none is named")
    asked.add_argument("--quick", action="store_true", help="of the core's tests, those that use its dependencies")
    asked.add_argument("--whole", action="store_true", help="all of the core's tests with oldest and newest, too")
    asked.add_argument(
        "--releases", type=Path, action="append", default=[], help="a folder with older wheels of the core"
    )
    asked.add_argument("--keep", action="store_true", help="leave the environments there, and say where")
    given = asked.parse_args()
    if unknown := set(given.which) - set(known):
        asked.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    which = given.which or (["oldest", "newest"] if given.versions else ["together", "alone"])
    base = Path(tempfile.mkdtemp(prefix="dit360-check-tests-"))
    tests = base / "repository"
    rows: list[dict[str, object]] = []
    failures: list[str] = []
    try:
        copy_tests(tests)
        for name in which:
            try:
                if name in ("together", "alone"):
                    rows += {"together": together, "alone": alone}[name](base, tests, given)
                else:
                    rows += versions(name, base, tests, given)
            except Failed as error:
                failures.append(f"{name}: {error}")
    finally:
        if given.keep:
            print(f"The environments are in {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    print("\nLeft out: " + "; ".join(f"{name} ({why})" for name, why in LEFT_OUT.items()))
    print(f"\n{table(rows)}")
    failures += [f"{row['run']}, {row['tests']}: {row['result']}" for row in rows if not passed(str(row["result"]))]
    fail(failures)


def passed(result: str) -> bool:
    return "passed" in result and not re.search(r"\d+ (failed|error)", result)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        fail([str(error)])
