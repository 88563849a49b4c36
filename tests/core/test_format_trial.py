"""A form of weights that turns back wrongly is told before a model computes from it."""

from pathlib import Path

import attrs
import dit360_core as dit360
import pytest
import torch
from dit360_core.errors import ModelError
from dit360_core.models.weights.forms import safetensors_file
from dit360_core.models.weights.forms.packed import Packed
from dit360_core.models.weights.forms.trial import check_packed


def right(tensors, shape):
    return (tensors[0].float() * tensors[1]).view(shape)


def matrix(decode=right):
    draw = torch.Generator().manual_seed(0)
    stored = torch.randint(-127, 128, (6, 32), generator=draw).to(torch.int8)
    return Packed(form="mine", shape=(6, 32), tensors=(stored, torch.rand(6, 1, generator=draw)), decode=decode)


def tried(packed):
    check_packed(packed, "a.weight", Path("x.mine"), "mine:mine")


def forgetful():
    """Right once."""
    calls = []

    def decode(tensors, shape):
        calls.append(shape)
        return right(tensors, shape) * (1 if len(calls) == 1 else 1.01)

    return decode


def changing(tensors, shape):
    found = right(tensors, shape)
    tensors[1].mul_(1 + 1e-7)
    return found


def by_the_whole(tensors, shape):
    return tensors[0].float() - tensors[0].float().mean()


WRONG = {
    "another shape": (lambda tensors, shape: right(tensors, shape)[:, 1:], "it makes .*3, 31"),
    "whole numbers": (lambda tensors, shape: right(tensors, shape).int(), "torch.int32"),
    "not finite": (lambda tensors, shape: right(tensors, shape) / 0, "not finite"),
    "other numbers": (forgetful(), "other numbers when it is asked again"),
    "by the whole": (by_the_whole, "a row alone is turned back to other numbers"),
    "changes": (changing, "changes what is stored"),
    "fails": (lambda tensors, shape: right(tensors, (7, 7)), r"turning it back fails \(RuntimeError: shape"),
    "exits": (lambda tensors, shape: (_ for _ in ()).throw(SystemExit(0)), "turning it back fails"),
}


@pytest.mark.parametrize(("decode", "said"), WRONG.values(), ids=WRONG)
def test_what_is_turned_back_wrongly_is_told_with_who_does_it(decode, said):
    tried(matrix())
    with pytest.raises(ModelError, match=f"^mine:mine cannot be used to read x.mine: of a.weight in mine, .*{said}"):
        tried(matrix(decode))


def test_a_model_is_not_made_of_such_a_file(tmp_path, monkeypatch):
    dit360.quantize("tiny", tmp_path / "x.safetensors", quantization_mode="int8")
    dit360.load("tiny", transformer=str(tmp_path / "x.safetensors"))
    read = safetensors_file.SafetensorsFile.read

    def wrong(self, name):
        found = read(self, name)
        return attrs.evolve(found, decode=by_the_whole) if isinstance(found, Packed) else found

    monkeypatch.setattr(safetensors_file.SafetensorsFile, "read", wrong)
    with pytest.raises(ModelError, match="a row alone is turned back to other numbers"):
        dit360.load("tiny", transformer=str(tmp_path / "x.safetensors"))
