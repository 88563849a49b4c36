"""A batch from beginning to end: what is asked, what is there already, who makes the rest, and what became of it."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import attrs

from dit360_core.batching.folder import Folder
from dit360_core.batching.in_process import Advance, InProcess
from dit360_core.batching.items import Batchwide, Item, digest, read_items, state_of
from dit360_core.batching.on_ray import OnRay
from dit360_core.batching.painting import Painted, identity, sized
from dit360_core.batching.telling import as_columns, in_line
from dit360_core.errors import Dit360Error, InputError, Sentence, marked, named, remedy, setting
from dit360_core.errors.sentences import line_of_list, options_in
from dit360_core.options import (
    OF_A_LINE,
    DecodeOptions,
    EditOptions,
    LargerOptions,
    LoadOptions,
    PhotoOptions,
    SampleOptions,
    build,
    build_own,
    options_of,
    own_options,
)
from dit360_core.options.numerals import pythons
from dit360_core.panorama.formats import FORMATS, Saving, check_format, format_of
from dit360_core.planning.checks import check_names
from dit360_core.planning.contents import contents_of
from dit360_core.plugins.offers import Model
from dit360_core.plugins.registry import Registry, default_registry
from dit360_core.system.atomic import NameTaken, not_lost, saved_elsewhere, write_whole
from dit360_core.system.naming import existing

log = logging.getLogger("dit360")

ENGINES = ("local", "ray")
_TOLD_LINES = 5
"""Of a list in one sentence."""


class Engine(Protocol):
    """Who makes the pictures. The methods are called in this order, each once."""

    def check(self, items: list[Item]) -> list[tuple[Item, str]]: ...
    def identities(self) -> Mapping[str, Mapping[str, object]]: ...
    def load(self) -> None: ...
    def paint(self, items: list[Item]) -> Iterator[Painted]: ...
    def close(self) -> None: ...


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one picture, as the manifest tells it.

    status: ``done``, or ``failed`` with the error.
    """

    file: Path
    line: int
    prompt: str
    seed: int
    status: str
    error: str | None = None
    seconds: float | None = None
    worker: str = ""


def shard_of(text: str) -> tuple[int, int]:
    """(number, of how many) of ``2/8``. Raises InputError for what is none."""
    number, sign, many = (part.strip() for part in text.partition("/"))
    right = sign and all(part.isascii() and part.isdigit() and len(part) < 7 for part in (number, many))
    if not right or not 1 <= int(number) <= int(many):
        raise InputError(f"{named('shard')} is {text!r:.40}, but must be such as 2/8: which part, of how many.")
    return int(number), int(many)


class Batch:
    """A list of pictures and the folder they go to. ::

        batch = Batch("prompts.jsonl", "out", model="tiny", steps=8)
        for outcome in batch.run():
            print(outcome.file, outcome.status)

    Making one reads and checks the list and looks what is done; :meth:`run` makes the rest.
    """

    def __init__(
        self,
        source: str | PathLike[str],
        folder: str | PathLike[str],
        *,
        format: str = "jpg",
        quality: int = 95,
        bits: int | None = None,
        expand_highlights: bool = False,
        engine: str = "local",
        workers: int | None = None,
        ray_address: str | None = None,
        force: bool = False,
        shard: str = "1/1",
        registry: Registry | None = None,
        **options: Any,
    ) -> None:
        """Reads and checks the list.

        source: .txt with a prompt in each line, .jsonl or .csv with any option of a picture, ``name``, ``image``,
        ``mask`` and ``photo``.
        folder: where the pictures go.
        format: jpg, png, webp, avif, tif or exr, of pictures whose line names no file.
        quality: 1 … 100, of JPEG, WebP and AVIF.
        bits: a channel, 8 or 16 for PNG; None: 8, and 16 in TIFF and OpenEXR.
        expand_highlights: make bright parts brighter than white, in OpenEXR.
        engine: local, or ray.
        workers: of Ray; None: as many as there are GPUs, or machines if there are none.
        ray_address: of a cluster of Ray; None: one on this machine.
        force: make pictures anew whose file is there and is another picture.
        shard: ``2/8``: of every eight lines the second, for eight programs that share one list and one folder.
        registry: of the plugins; None: those that are installed.
        options: of LoadOptions for the model, and those of a picture for every one whose line does not say otherwise. A
        seed that nobody gives follows from what is asked, and is the same in every run.

        Raises InputError with the line that is wrong, before anything heavy is imported.
        """
        self.shard = part, parts = shard_of(shard)
        self.source, self.folder = Path(source), Folder(Path(folder), self.shard)
        quality = pythons(quality)
        self._saving, self._force = Saving(quality=quality, bits=bits, expand_highlights=expand_highlights), force
        self._registry = registry or default_registry()
        of_a_picture = {name for cls in OF_A_LINE for name in options_of(cls)}
        # What both have, such as attention_backend, is the model's: it is loaded for these pictures alone.
        pictures = {name: options[name] for name in of_a_picture.difference(options_of(LoadOptions)) if name in options}
        self.loading = build(
            LoadOptions, {name: value for name, value in options.items() if name not in pictures}, beside=SampleOptions
        )
        check_engine(engine, workers, ray_address)
        if f".{format}" not in FORMATS:
            raise InputError(
                f"{named('format')} is {format!r}, but must be one of: {', '.join(s[1:] for s in FORMATS)}."
            )
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise InputError(f"{named('quality')} is {quality!r}, but must be a whole number, 1 … 100.")
        if engine == "ray" and registry is not None:
            raise InputError(
                f"registry has no effect with {setting('engine', 'ray')}, whose workers look for plugins themselves."
            )
        self._engine_name, self._workers, self._address = engine, workers, ray_address
        self.folder.check()
        if self.source.absolute() == self.folder.manifest.absolute():
            raise InputError(f"{self.source} would be replaced by the batch's own manifest; call the list otherwise.")
        common = Batchwide(
            folder=self.folder.path,
            suffix=f".{format}",
            loading=self.loading,
            options=pictures,
            contents=self._contents(),
            wrong=self._wrong_everywhere(pictures),
        )
        self._wrong = common.wrong
        # Who types a command gives all of them, most at their defaults.
        usual = {name: option.default for cls in OF_A_LINE for name, option in options_of(cls).items()}
        self._for_all = frozenset(name for name, value in pictures.items() if value != usual[name])
        # All of them are read and checked first, so that seeds and names are those of the whole list.
        every = read_items(self.source, common)
        self.items = list(every[part - 1 :: parts])
        self._check_names()
        for item in self.items:
            kind = format_of(item.name)
            self._in_line(item, functools.partial(check_format, kind, bits=bits, expand_highlights=expand_highlights))
        self._check_sources(every)
        self._done, missing = self.folder.sort(self.items, force=force)
        self._check_named()
        # Not the pictures themselves: a list may name thousands.
        outline_of = functools.cache(lambda files: files.open().outline)
        self.missing = [self._in_line(item, lambda item=item: sized(item, outline_of)) for item in missing]

    @property
    def done(self) -> list[Item]:
        """The pictures that are made by now."""
        return [item for item in self.items if item.name in self._done]

    def check(self) -> None:
        """Asks the model about the pictures that are missing, as :meth:`run` does before it reads weights.

        Raises what :meth:`run` would raise by then. Nothing is made in the folder. A model that is not here is fetched;
        with engine=ray, workers are started.
        """
        self.folder.check_writable(self.missing)
        if not self.missing:
            return
        engine = self._engine(None)
        try:
            self._check_with(engine)
        finally:
            engine.close()

    def run(self, advance: Advance | None = None) -> Iterator[Outcome]:
        """Makes what is missing and tells of each picture when it is there. Stopped and run again, it goes on.

        advance: called after each step with (item, done, steps); of engine=local alone.

        A picture that fails is told, and the next is made. Raises InputError if another process is writing into the
        folder, if the model, now, would make other pictures than those that are there, or whatever loading it raises;
        Dit360Error if a picture cannot be written.
        """
        if not self.items:  # of a part that is empty nothing is written
            return
        with self.folder.locked():
            # Somebody may have finished since this was made.
            self._done, _ = self.folder.sort(self.items, force=self._force)
            self.missing = [item for item in self.missing if item.name not in self._done]
            self._check_named()
            self.folder.check_writable(self.missing)
            for item in self.items:
                if item.larger and item.name in self._done:  # of a run that was killed between saving and this
                    state_of(self.folder.path, item).unlink(missing_ok=True)
            known = self.folder.entries()
            entries = {item.name: self._entry(item, known.get(item.name)) for item in self.items}
            others = [
                entry
                for name, entry in known.items()
                if name not in entries and os.path.isfile(self.folder.path / name)
            ]
            self.folder.rewrite([*others, *entries.values()])
            if not self.missing:
                return
            engine = self._engine(advance)
            try:
                self._check_with(engine)
                engine.load()
                for painted in engine.paint(self.missing):
                    yield self._finish(painted, entries)
                self._check_all_there(entries)
            finally:
                engine.close()
                try:
                    self.folder.rewrite([*others, *entries.values()])
                except Dit360Error as error:  # on a full disk, of which the picture has told already
                    log.warning("%s", error.sentence)

    # ---------------------------------------------------------------------------------------------------- inner parts

    def _check_all_there(self, entries: dict[str, dict[str, Any]]) -> None:
        """Raises Dit360Error if pictures that were made are not there any more; the manifest says so too."""
        self.folder.check_still_there()
        done = [name for name, entry in entries.items() if entry["status"] == "done"]
        gone = [name for name in done if not os.path.isfile(self.folder.path / name)]
        for name in gone:
            entries[name]["status"] = "pending"
        if gone:
            raise Dit360Error(
                f"{len(gone)} of {len(done)} pictures that were made are no longer in {self.folder.path}, such as "
                f"{gone[0]}; the same command makes them again."
            )

    def _check_with(self, engine: Engine) -> None:
        """Raises InputError for what is wrong with the pictures that are missing, as their model sees it."""
        for item, why in engine.check(self.missing):
            # For what the command says of all pictures no line is blamed.
            of_all = self._for_all.intersection(options_in(why)) and not item.said.intersection(options_in(why))
            where = "" if of_all else f"{line_of_list(f'{self.source}, line {item.line}')}: "
            raise InputError(f"{where}{as_columns(why, item.said)}")
        self._check_same(engine.identities())

    def _engine(self, advance: Advance | None) -> Engine:
        if self._engine_name == "local":
            return InProcess(
                self.loading, saving=self._saving, registry=self._registry, advance=advance, folder=self.folder.path
            )
        return OnRay(self.loading, saving=self._saving, workers=self._workers, address=self._address)

    def _contents(self) -> dict[str, str]:
        """Fingerprints of the local files that the model is made of: other weights make other pictures."""
        return contents_of(self.loading, self._check_all_names(None, None))

    def _check_sources(self, every: Sequence[Item]) -> None:
        """Raises InputError if a picture would replace what pictures of the list are made from, whoever wants it.

        every: picture of the list, those of its other parts too.
        """
        sources: dict[str, list[int]] = {}
        for item in every:
            for path in item.files.paths:
                sources.setdefault(_real(path), []).append(item.line)
        if not sources:
            return
        risked = [item for item in self.items if _real(self.folder.path / item.name) in sources]
        _, replacing = self.folder.sort(risked, force=True)
        for item in replacing:
            path = self.folder.path / item.name
            lines = _lines(dict.fromkeys(sources[_real(path)]))
            with in_line(self.source, item.line):
                raise InputError(
                    f"it would replace {path}, which {lines} made from; give it another name, or choose another folder."
                )

    def _check_names(self) -> None:
        for item in self.items:
            self._in_line(item, lambda item=item: self._check_all_names(item.sampling, item.decoding))

    def _check_all_names(self, sampling: SampleOptions | None, decoding: DecodeOptions | None) -> Model:
        return check_names(
            self.loading, sampling, self._registry, lambda name: existing(name) is not None, decoding=decoding
        )

    def _wrong_everywhere(self, options: Mapping[str, Any]) -> str:
        """What is wrong with the options that were given for all pictures, if a line cannot put it right."""
        try:
            decode = build_own(DecodeOptions, options)
            sample = build(SampleOptions, {"prompt": "any", **own_options(SampleOptions, options)})
            build_own(EditOptions, options)
            build_own(PhotoOptions, options)
            build_own(LargerOptions, options)
            self._check_all_names(sample, decode)
        except InputError as error:
            return error.sentence
        return ""

    def _in_line(self, item: Item, check: Any) -> Any:
        with in_line(self.source, item.line, self._wrong, item.said):
            return check()

    def _check_named(self) -> None:
        """Raises InputError if a finished picture was made with another precision or quantization than is asked for.

        By its own metadata, whether the model is needed or not: a batch that is finished does not look for it.
        """
        wanted: dict[str, set[str]] = {}
        if self.loading.precision != "auto":
            wanted["precision"] = {self.loading.precision}
        # "none" is also what nobody asked for, and weights that are stored quantized take it.
        if (mode := self.loading.quantization_mode) not in ("auto", "none"):
            wanted["quantization_mode"] = {entry.name for entry in self._registry.find("quantization", mode)}
        for name, settings in self._done.items() if wanted else ():
            used: Any = settings.get("used")
            before = identity(used) if isinstance(used, Mapping) else {}
            for option, values in wanted.items():
                if (value := before.get(option)) is not None and value not in values:
                    raise InputError(
                        f"{self.folder.path / name} was made with {setting(option, value)}, and "
                        f"{setting(option, getattr(self.loading, option))} is asked for now; {remedy('leave_out')}, or "
                        "choose another folder."
                    )

    def _check_same(self, identities: Mapping[str, Mapping[str, object]]) -> None:
        """Raises InputError if pictures of one batch would not be of one make."""
        (first, mine), *others = identities.items()
        for worker, its in others:
            if its != mine:
                raise InputError(
                    f"{first} would make the pictures with {_told(mine)} and {worker} with {_told(its)}; name what "
                    "differs, so that all make the same."
                )
        for name, settings in self._done.items():
            used: Any = settings.get("used")
            if not isinstance(used, Mapping):
                raise InputError(
                    f"{self.folder.path / name} does not say how it was made, so its metadata is damaged; delete it to "
                    "have it made again."
                )
            if (before := identity(used)) != mine:
                raise InputError(
                    f"{self.folder.path / name} was made with {_told(before)}, and the rest would now be made with "
                    f"{_told(mine)}; name what differs, or choose another folder."
                )

    def _entry(self, item: Item, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """A line of the manifest, of what was before this run."""
        entry: dict[str, Any] = {
            "file": item.name,
            "line": item.line,
            "prompt": item.sampling.prompt,
            "seed": item.sampling.seed,
            "key": item.key,
            "status": "pending",
        }
        if item.name not in self._done:
            return entry
        path = self.folder.path / item.name
        if known and known.get("key") == item.key and known.get("status") == "done" and "bytes" in known:
            if known["bytes"] != path.stat().st_size:
                log.warning(
                    "%s has been changed since it was made (%d bytes instead of %d); delete it to have it made again.",
                    *(path, path.stat().st_size, known["bytes"]),
                )
            return {**known, **entry, "status": "done"}
        # A process that was killed between the picture and the line about it.
        return {**entry, "status": "done", "bytes": path.stat().st_size, "sha256": digest(path)}

    def _finish(self, painted: Painted, entries: dict[str, dict[str, Any]]) -> Outcome:
        """Writes a picture, or tells why there is none, in the manifest and its ``entries`` too."""
        item = painted.item
        for line in painted.told:
            log.warning("%s", f"{painted.worker}: {line}")
        if (data := painted.data) is not None:
            try:
                self.folder.write(item.name, data, force=self._force)
                state_of(self.folder.path, item).unlink(missing_ok=True)
            except NameTaken as error:
                beside = self.folder.write(item.name, data, force=False, beside=True)
                why = f"{error.sentence.rstrip('.')}. This picture is not lost, it is {beside}."
                painted = attrs.evolve(painted, data=None, error=Sentence(why))
            except Dit360Error as error:  # the disk is full, or the folder went away
                kept = saved_elsewhere(self.folder.path / item.name, functools.partial(write_whole, data), beside=False)
                if kept is None:
                    raise
                raise not_lost(error, kept) from error
        status = "failed" if painted.data is None else "done"
        entry = {**self._entry(item, None), "status": status, "seconds": round(painted.seconds, 3)}
        if painted.worker:
            entry["worker"] = painted.worker
        if painted.data is None:
            entry["error"] = painted.error
            where = line_of_list(f"{self.source}, line {item.line}")
            log.warning("%s, failed: %s", where, as_columns(marked(painted.error or ""), item.said))
        else:
            entry |= {
                "width": painted.width,
                "height": painted.height,
                "bytes": len(painted.data),
                "sha256": hashlib.sha256(painted.data).hexdigest(),
            }
        entries[item.name] = entry
        self.folder.tell(entry)
        return Outcome(
            file=self.folder.path / item.name,
            line=item.line,
            prompt=item.sampling.prompt,
            seed=item.sampling.seed or 0,
            status=status,
            error=painted.error,
            seconds=painted.seconds,
            worker=painted.worker,
        )


def check_engine(engine: str, workers: int | None, ray_address: str | None) -> None:
    """Raises InputError for what is no engine, or has no effect on it."""
    if engine not in ENGINES:
        raise InputError(f"{named('engine')} is {engine!r}, but must be one of: {', '.join(ENGINES)}.")
    for name, value in (("workers", workers), ("ray_address", ray_address)):
        if engine == "local" and value is not None:
            raise InputError(
                f"{setting(name, value)} has no effect with {setting('engine', 'local')}; use "
                f"{setting('engine', 'ray')}, or {remedy('leave_out')}."
            )
    if workers is not None and workers < 1:
        raise InputError(f"{named('workers')} is {workers}, but must be at least 1.")


def _real(path: Path) -> str:
    """A name that all names of one file have in common."""
    return os.path.normcase(os.path.realpath(path))


def _lines(numbers: Iterable[int]) -> str:
    """Lines of a list as the subject of a sentence; of many, how many more there are."""
    first, more = [str(number) for number in numbers], 0
    if len(first) > _TOLD_LINES:
        first, more = first[:_TOLD_LINES], len(first) - _TOLD_LINES
    if len(first) == 1:
        return f"line {first[0]} is"
    last = f"{more} more" if more else first.pop()
    return f"lines {', '.join(first)} and {last} are"


def _told(identity: Mapping[str, object]) -> str:
    return " ".join(setting(name, value) for name, value in identity.items())
