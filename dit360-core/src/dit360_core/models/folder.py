"""A family's folders as diffusers writes them, checked before anything heavy is imported.

Only what is known of a family reaches a library: pipelines, classes, and the keys of configurations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from dit360_core.errors import ModelError, named, remedy
from dit360_core.models.architecture import Part
from dit360_core.models.tokenizers import TokenizerKind, check_tokenizer, check_vocabulary
from dit360_core.models.weights.files import STORED, refuse_single_file
from dit360_core.models.weights.headers import check_numbers, header, tensor_files, variant_of, weight_files
from dit360_core.models.weights.schema import Schema, checked, name_of, read_json

log = logging.getLogger("dit360")

LIBRARIES = ("diffusers", "transformers")
"""From which the parts of a model come. Older versions of diffusers import whatever else a model's folder names."""
SCHEDULER = "FlowMatchEulerDiscreteScheduler"
"""Whose settings are read: the time shift of a family's models."""


def _as_it_is(found: Mapping[str, Any]) -> Mapping[str, Any]:
    return found


def _nothing_odd(config: Mapping[str, Any]) -> str | None:
    return None


def _fit_together(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    return None


@attrs.frozen(kw_only=True)
class PartKind:
    """What the configuration of one folder of a model must be.

    classes: of diffusers or transformers, as ``model_index.json`` and ``_class_name`` may name them; empty: any.
    types: ``model_type`` of what transformers wrote; empty: any.
    schema: its keys.
    config_of: what of the file is the configuration, where that is a part of it.
    odd: a configuration whose keys are right one by one → what cannot be, in half a sentence, or None.
    """

    classes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    schema: Schema
    config_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is
    odd: Callable[[Mapping[str, Any]], str | None] = _nothing_odd


@attrs.frozen(kw_only=True)
class ModelFolder:
    """The folders of a family's models.

    title: the family's, as in "a FLUX model".
    pipelines: classes that ``model_index.json`` may name, the usual one first.
    parts: the networks.
    kinds: folder → what its configuration must be: of every network, and of the scheduler.
    tokenizers: folder → what is in it.
    together: raises ModelError for parts that are right one by one and of different models.
    neighbours: pipelines that people take for this family's → what they are, in half a sentence.
    """

    title: str
    pipelines: tuple[str, ...]
    parts: tuple[Part, ...]
    kinds: Mapping[str, PartKind]
    tokenizers: Mapping[str, TokenizerKind]
    together: Callable[[Path, Mapping[str, Mapping[str, Any]]], None] = _fit_together
    neighbours: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All folders."""
        return (*(part.name for part in self.parts), *self.tokenizers, "scheduler")

    def check(self, folder: Path, *, without: Collection[str] = ()) -> None:
        """Raises ModelError unless the folder is a complete model of diffusers with whole safetensors files.

        without: parts whose weights are not wanted.
        """
        refuse_single_file(folder)
        index = folder / "model_index.json"
        if not index.is_file():
            raise ModelError(
                f"{folder} is no diffusers model: it has no model_index.json; {remedy('give_diffusers_folder')}."
            )
        self.check_index(index)
        missing = [part for part in self.names if not (folder / part).is_dir()]
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}; download the whole model, not a part of it.")
        configs = {part: self.read_config(part, folder / part) for part in self.kinds}
        for part, kind in self.tokenizers.items():
            check_vocabulary(kind, folder / part)
        for one in self.parts:
            if one.name not in without:
                self.check_weights(one.name, folder / one.name)
        # What is whole by itself is compared, and what takes a process of its own comes last.
        self.together(folder, configs)
        self._tell_of_scheduler(folder / "scheduler" / "scheduler_config.json")
        for part, kind in self.tokenizers.items():
            check_tokenizer(kind, folder / part)

    def check_index(self, index: Path) -> None:
        """Raises ModelError for a pipeline or a part that is not of the family."""
        described = read_json(index)
        made_by = described.get("_class_name")
        if made_by not in self.pipelines:
            what = self.neighbours.get(made_by) if isinstance(made_by, str) else None
            what = f", which {what}" if what else ""
            raise ModelError(
                f"{index.parent} holds a {name_of(made_by)}{what}, but dit360 runs {self.pipelines[0]} models; give a "
                f"{self.title} folder."
            )
        for part in self.names:
            made = described.get(part, LIBRARIES)
            if not (isinstance(made, (list, tuple)) and made and made[0] in (None, *LIBRARIES)):
                raise ModelError(
                    f"{index} wants code for its {part} that is neither of diffusers nor of transformers "
                    f"({made!r:.60}), which dit360 does not run; give another {named('model')}."
                )
            allowed = self._classes(part)
            if part in described and allowed and made[0] is not None and (len(made) != 2 or made[1] not in allowed):
                raise ModelError(
                    f"{index} says that its {part} is {made[1:]!r:.60}, and a {self.title} model's is {allowed[0]}; "
                    f"give a {self.title} folder."
                )

    @staticmethod
    def _tell_of_scheduler(file: Path) -> None:
        """Another one's solver is not used, and the user's is told of that."""
        made_by = read_json(file).get("_class_name", SCHEDULER)
        if made_by != SCHEDULER:
            log.warning(
                "%s describes %s, of which only the settings that %s has too are used; %s says which solver paints.",
                file,
                name_of(made_by),
                SCHEDULER,
                named("scheduler_type"),
            )

    def _classes(self, part: str) -> tuple[str, ...]:
        return self.tokenizers[part].classes if part in self.tokenizers else self.kinds[part].classes

    def check_weights(self, part: str, folder: Path) -> None:
        """Raises ModelError unless a part's files are whole, and hold numbers that mean something as they stand."""
        entries = {file: header(file) for file in weight_files(folder)}
        stored = (folder / STORED).is_file()
        config = {} if stored else read_json(folder / "config.json")
        quantizable = {one.name: one.short for one in self.parts if one.option}
        if config.get("quantization_config") and part not in quantizable:
            raise ModelError(
                f"{folder} is stored quantized, and dit360 reads a quantized {' and '.join(quantizable.values())} "
                f"only; give the original {part}."
            )
        if stored or config.get("quantization_config"):
            return
        if variant := variant_of(folder):
            log.info("%s: its weights are there as the variant %s alone, which is read", folder, variant)
        files = set(tensor_files(folder).values())
        for file, found in entries.items():
            if file in files:
                check_numbers(file, found)

    def check_configs(self, folder: Path) -> None:
        """Raises ModelError for configurations that are wrong, or right one by one and of different models."""
        self.together(folder, {part: self.read_config(part, folder / part) for part in self.kinds})

    def check_part(self, part: str, folder: Path, *, weights: bool) -> None:
        """Raises ModelError unless a folder is that of such a part.

        weights: they must be there and whole.
        """
        self.read_config(part, folder)
        if weights:
            self.check_weights(part, folder)

    def read_config(self, part: str, folder: Path) -> dict[str, Any]:
        """The configuration of a part in its folder, as far as dit360 knows its keys.

        Raises ModelError if there is none, if it is another kind of model's, or for values that cannot be.
        """
        file = folder / ("scheduler_config.json" if part == "scheduler" else "config.json")
        if not file.is_file():
            raise ModelError(f"{folder} has no {file.name}; download the whole model again.")
        found, kind = read_json(file), self.kinds[part]
        for key, allowed in (("_class_name", kind.classes), ("model_type", kind.types)):
            if key in found and allowed and found[key] not in allowed:
                raise ModelError(
                    f"{file} describes {name_of(found[key])}, and the {part} of a {self.title} model is {allowed[0]}; "
                    "give such a model."
                )
        config = checked(file, kind.config_of(found), kind.schema)
        if why := kind.odd(config):
            raise ModelError(f"{file} says that {why}, which cannot be; download it again.")
        return config
