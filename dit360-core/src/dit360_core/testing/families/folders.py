"""An offer, the folders that are of its family, and what is said of damaged ones."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dit360_core.errors import Dit360Error
from dit360_core.models.architecture import AUTOENCODER, DENOISER, Architecture, Part, Role, index_of
from dit360_core.models.families import architecture_of, check_model
from dit360_core.models.weights.headers import weight_files
from dit360_core.pipeline.loading import load
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.plugins.offers import Model
from dit360_core.testing.families.base import FamilyTests

_LOOKED_AT = """
import importlib, sys
from pathlib import Path

folder, module, name, *heavy = sys.argv[1:]
(offer,) = [one for one in importlib.import_module(module).dit360_architectures() if one.name == name]
family = offer.load()
family.facts(Path(folder)), family.prompt_tokens(Path(folder)), family.check_folder(Path(folder))
print([name for name in heavy if name in sys.modules])
"""


class FolderTests(FamilyTests):
    """Of the offer, and of what can be told without PyTorch."""

    def test_looking_at_a_folder_imports_nothing_heavy(self) -> None:
        model, heavy = self.model(), [name for name in self.heavy if name != "numpy"]
        arguments = [str(model.folder), self.module, model.offer.name, *heavy]
        command = [sys.executable, "-c", _LOOKED_AT, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]", (
            f"the offer's load and Architecture's facts, prompt_tokens or check_folder import {done.stdout.strip()}; "
            "import them in Architecture.networks"
        )

    def test_the_offer_is_that_of_its_architecture(self) -> None:
        model = self.model()
        found = model.offer.load()
        assert isinstance(found, Architecture), f"load gives a {type(found).__name__}, not an Architecture"
        assert (found.name, found.title) == (model.offer.name, model.offer.title), (
            f"the Architecture is called {found.name} ({found.title}), and the offer {model.offer.name} "
            f"({model.offer.title})"
        )
        assert pickle.loads(pickle.dumps(found)) == found, "an Architecture holds nothing, so a copy of it is the same"

    def test_its_folders_are_recognised_and_others_are_not(self) -> None:
        model = self.model()
        described = index_of(model.folder)
        assert described.get("_class_name") in model.offer.pipelines, (
            f"the pipeline is a {described.get('_class_name')}, and the offer's pipelines are {model.offer.pipelines}"
        )
        made = json.loads((model.folder / DENOISER / "config.json").read_text("utf-8")).get("_class_name")
        assert made in model.offer.transformers, (
            f"the transformer is a {made}, and the offer's transformers are {model.offer.transformers}"
        )
        own = model.offer.load()
        assert model.architecture == own, f"its folder is taken for {model.architecture.title}"
        check_model(model.folder, model.registry)
        embedded = index_of(Path(EMBEDDED_MODEL))["_class_name"]
        if embedded not in model.offer.pipelines:
            other = architecture_of(Path(EMBEDDED_MODEL), model.registry)
            assert other != own, f"the folder of a {embedded} is taken for {own.title}"

    def test_parts_are_those_of_the_pipeline(self) -> None:
        model = self.model()
        pipe, family = model.load().engine.pipe, model.architecture
        for name in family.folders:
            assert getattr(pipe, name, None) is not None, f"Architecture says {name}, which {type(pipe).__name__} lacks"
        for role, name in ((Role.DENOISER, DENOISER), (Role.AUTOENCODER, AUTOENCODER)):
            assert family.used_by(role) == (name,), f"the part that {role.value} is {family.used_by(role)}, not {name}"
        assert family.encoders, "no part reads the prompt: give one Role.TEXT"
        for part in family.parts:
            self._check_lists(part, getattr(pipe, part.name))

    def _check_lists(self, part: Part, module: torch.nn.Module) -> None:
        for name in (*part.blocks, *part.streamed):
            inside = dict(module.named_modules()).get(name)
            assert inside is not None, f"{part.name} has no {name}, which its Part names"
        for name in part.blocks:
            blocks = module.get_submodule(name)
            assert isinstance(blocks, torch.nn.ModuleList), f"{name} of {part.name} is no list of blocks"
            layers = [[(key, layer.weight.shape) for key, layer in _linear(block)] for block in blocks]
            assert all(one == layers[0] for one in layers), f"the blocks in {name} of {part.name} are not alike"

    def test_the_prompt_is_as_long_as_planned(self) -> None:
        model = self.model()
        longest = model.architecture.longest_prompt
        told = {
            "Architecture.prompt_tokens": model.architecture.prompt_tokens(model.folder),
            "Networks.prompt_tokens_of": model.architecture.networks.prompt_tokens_of(model.load().engine.pipe),
            "Engine.longest_prompt": model.load().engine.longest_prompt,
        }
        assert len(set(told.values())) == 1, f"these do not agree: {told}"
        assert self._text() <= max(told.values()) <= longest, (
            f"a prompt has {self._text()} tokens, {told}, and Architecture.longest_prompt is {longest}"
        )

    def test_a_model_given_by_its_files_has_usual_steps_and_guidance(self) -> None:
        model = self.model()
        plain = Model(name="given", api=1, base="given", width=2048, height=1024)
        usual = model.architecture.usual(plain, model.facts)
        assert isinstance(usual, Model), f"Architecture.usual gives a {type(usual).__name__} where a Model belongs"
        assert (usual.name, usual.base) == ("given", "given"), "Architecture.usual changes more than how it is run"
        assert 1 <= usual.steps <= 200, f"Architecture.usual says {usual.steps} steps"

    # -------------------------------------------------------------------------------------------------- damaged folders

    def test_damaged_folders_are_told_in_one_sentence(self) -> None:
        model = self.model()
        for name, damage in DAMAGES.items():
            folder = model.place / "damaged"
            shutil.copytree(model.folder, folder)
            try:
                damage(folder)
                said = _said(lambda folder=folder: check_model(folder, model.registry))  # type: ignore[misc]
                assert said is not None, f"Architecture.check_folder takes a folder {name}"
                _check_sentence(said, name, folder)
            finally:
                shutil.rmtree(folder)

    def test_weights_of_another_shape_are_told_in_one_sentence(self) -> None:
        model = self.model()
        folder = model.place / "reshaped"
        shutil.copytree(model.folder, folder)
        try:
            (file, *_) = weight_files(folder / DENOISER)
            tensors = load_file(file)
            name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
            save_file({**tensors, name: torch.zeros(3, 5)}, file, metadata={"format": "pt"})
            said = _said(lambda: load(str(folder), registry=model.registry, precision="fp32", device="cpu"))
            assert said is not None, f"it loads although {name} is of another shape"
            _check_sentence(said, f"with a {name} of another shape", folder)
        finally:
            shutil.rmtree(folder)


def _linear(block: torch.nn.Module) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)]


def _changed(file: Path, **changes: Any) -> None:
    told = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**told, **changes}), "utf-8")


def _of_another_pipeline(folder: Path) -> None:
    """With what somebody's pipeline of this family might be called, so that the family is asked."""
    denoiser = json.loads((folder / DENOISER / "config.json").read_text("utf-8"))["_class_name"]
    _changed(folder / "model_index.json", **{DENOISER: ["diffusers", f"Other{denoiser}"]})


def _without_weights(folder: Path) -> None:
    for file in list(weight_files(folder / AUTOENCODER)):
        file.unlink()


def _with_words(folder: Path) -> None:
    file = folder / AUTOENCODER / "config.json"
    told = json.loads(file.read_text("utf-8"))
    name = next(name for name, value in told.items() if name[0] != "_" and type(value) is int)
    _changed(file, **{name: "many"})


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "whose model_index.json names another transformer": _of_another_pipeline,
    "whose model_index.json wants somebody's code": lambda folder: _changed(
        folder / "model_index.json", **{DENOISER: ["somebodys_code", "Transformer"]}
    ),
    "whose model_index.json is cut off": lambda folder: (folder / "model_index.json").write_text('{"_class'),
    "without its transformer": lambda folder: shutil.rmtree(folder / DENOISER),
    "without its autoencoder's weights": _without_weights,
    "whose transformer's configuration is cut off": lambda folder: (folder / DENOISER / "config.json").write_text("{"),
    "whose transformer's configuration is another class's": lambda folder: _changed(
        folder / DENOISER / "config.json", _class_name="UNet2DConditionModel"
    ),
    "whose autoencoder's configuration says a number in words": _with_words,
    "without a scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "whose scheduler has no step to count by": lambda folder: _changed(
        folder / "scheduler" / "scheduler_config.json", num_train_timesteps=0
    ),
}
"""What is wrong with a folder → how it becomes so."""


def _said(doing: Callable[[], Any]) -> BaseException | None:
    try:
        doing()
    except unittest.SkipTest:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is looked at
        return error
    return None


def _check_sentence(said: BaseException, name: str, folder: Path) -> None:
    text = str(said)
    assert isinstance(said, Dit360Error), f"a folder {name} is a {type(said).__name__}, not a ModelError: {text:.200}"
    assert "\n" not in text, f"a folder {name} is told in more than one line: {text:.200}"
    assert text.endswith("."), f"a folder {name} is told without a full stop: {text:.200}"
    assert str(folder) in text, f"a folder {name} is told without saying where it is: {text:.200}"
