"""What trainers make of a layer's name, and layers of models of all families, for tests of their tables."""

import torch
from diffusers import (
    Flux2Transformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
)


def _flat(name):
    return name.replace(".", "_")


SCHEMES = {
    "diffusers": lambda name: f"transformer.{name}",
    "PEFT": lambda name: f"base_model.model.{name}",
    "PEFT in a pipeline": lambda name: f"base_model.model.transformer.{name}",
    "ComfyUI": lambda name: f"diffusion_model.{name}",
    "ComfyUI, all in one": lambda name: f"model.diffusion_model.{name}",
    "kohya": lambda name: f"lora_unet_{_flat(name)}",
    "OneTrainer": lambda name: f"lora_transformer_{_flat(name)}",
    "LyCORIS": lambda name: f"lycoris_{_flat(name)}",
    "plain": lambda name: name,
}
"""Of a layer's name, as diffusers or the makers of the model have it, its name in a file."""


def small(kind):
    """A model of each family with the layers that a whole one has, without weights."""
    of = {"attention_head_dim": 16, "num_attention_heads": 2}
    with torch.device("meta"):
        return {
            "flux2": lambda: Flux2Transformer2DModel(
                num_layers=2, num_single_layers=2, **of, in_channels=16, axes_dims_rope=(4, 4, 4, 4)
            ),
            "qwen": lambda: QwenImageTransformer2DModel(num_layers=2, **of, axes_dims_rope=(4, 6, 6)),
            "krea": lambda: Krea2Transformer2DModel(
                num_layers=2, **of, num_key_value_heads=1, intermediate_size=48, text_hidden_dim=32,
                num_text_layers=3, text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=48,
                axes_dims_rope=(4, 6, 6),
            ),
        }[kind]()  # fmt: skip


def layers(model):
    """The names of all layers with weights, and of those a LoRA has factors for."""
    named = [
        (name, module)
        for name, module in model.named_modules()
        if "weight" in dict(module.named_parameters(recurse=False))
    ]
    return [name for name, _ in named], [name for name, module in named if isinstance(module, torch.nn.Linear)]


def placed(find, original):
    """{name of a tensor here: it}, of the weights and biases of a model in its makers' names, as the tables say."""
    found = {}
    for key, tensor in original.items():
        stem, _, leaf = key.rpartition(".")
        target = find(stem)
        assert target is not None, key
        if target.halves_swapped:
            first, second = tensor.chunk(2)
            tensor = torch.cat([second, first])
        for module, rows in zip(target.modules, tensor.chunk(len(target.modules)), strict=True):
            found[f"{module}.{'weight' if leaf == 'scale' else leaf}"] = rows
    return found
