"""Parts of models as large as they are, from their configurations alone: nothing is allocated."""

import functools
import json
from pathlib import Path

import diffusers
import torch
import transformers


@functools.cache
def empty(shape, part):
    """A part of a model as the folder's model_index.json and its own configuration say, on the meta device."""
    library, kind = json.loads((Path(shape) / "model_index.json").read_text("utf-8"))[part]
    folder = Path(shape) / part
    with torch.device("meta"):
        if library == "diffusers":
            module = getattr(diffusers, kind)
            return module.from_config(module.load_config(folder))
        return getattr(transformers, kind)(transformers.AutoConfig.from_pretrained(folder))


def counted(shape, part, layer=""):
    """How many numbers a part, or a layer of it, has."""
    return sum(each.numel() for each in empty(shape, part).get_submodule(layer).parameters())
