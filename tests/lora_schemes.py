"""LoRAs of the embedded model in the names of every trainer, and by hand what each has to add to which weights."""

import json

import torch
from safetensors.torch import save_file

RANK, ALPHA = 4, 6.0
DIM, MLP, IN, TEXT = 192, 768, 128, 128
HALVES_SWAPPED = "norm_out.linear"

# A layer as Black Forest Labs call it, its shape, and the layers of diffusers whose outputs lie in it one after the
# other, each with how many.
QKV = [("attn.to_q", DIM), ("attn.to_k", DIM), ("attn.to_v", DIM)]
ADDED = [("attn.add_q_proj", DIM), ("attn.add_k_proj", DIM), ("attn.add_v_proj", DIM)]
TOP = {
    "img_in": (IN, [("x_embedder", DIM)]),
    "txt_in": (TEXT, [("context_embedder", DIM)]),
    "time_in.in_layer": (256, [("time_text_embed.timestep_embedder.linear_1", DIM)]),
    "time_in.out_layer": (DIM, [("time_text_embed.timestep_embedder.linear_2", DIM)]),
    "vector_in.in_layer": (TEXT, [("time_text_embed.text_embedder.linear_1", DIM)]),
    "vector_in.out_layer": (DIM, [("time_text_embed.text_embedder.linear_2", DIM)]),
    "guidance_in.in_layer": (256, [("time_text_embed.guidance_embedder.linear_1", DIM)]),
    "guidance_in.out_layer": (DIM, [("time_text_embed.guidance_embedder.linear_2", DIM)]),
    "final_layer.linear": (DIM, [("proj_out", IN)]),
    "final_layer.adaLN_modulation.1": (DIM, [(HALVES_SWAPPED, 2 * DIM)]),
}
DOUBLE = {
    "img_attn.qkv": (DIM, QKV),
    "txt_attn.qkv": (DIM, ADDED),
    "img_attn.proj": (DIM, [("attn.to_out.0", DIM)]),
    "txt_attn.proj": (DIM, [("attn.to_add_out", DIM)]),
    "img_mlp.0": (DIM, [("ff.net.0.proj", MLP)]),
    "img_mlp.2": (MLP, [("ff.net.2", DIM)]),
    "txt_mlp.0": (DIM, [("ff_context.net.0.proj", MLP)]),
    "txt_mlp.2": (MLP, [("ff_context.net.2", DIM)]),
    "img_mod.lin": (DIM, [("norm1.linear", 6 * DIM)]),
    "txt_mod.lin": (DIM, [("norm1_context.linear", 6 * DIM)]),
}
SINGLE = {
    "linear1": (DIM, [*QKV, ("proj_mlp", MLP)]),
    "linear2": (DIM + MLP, [("proj_out", DIM)]),
    "modulation.lin": (DIM, [("norm.linear", 3 * DIM)]),
}
BFL = {
    **TOP,
    **{f"double_blocks.1.{n}": (i, [(f"transformer_blocks.1.{m}", o) for m, o in to]) for n, (i, to) in DOUBLE.items()},
    **{
        f"single_blocks.2.{n}": (i, [(f"single_transformer_blocks.2.{m}", o) for m, o in to])
        for n, (i, to) in SINGLE.items()
    },
}
"""Name → (inputs, what it is here)."""
OWN = {name: (inputs, [(name, outputs)]) for inputs, to in BFL.values() for name, outputs in to}
"""The same layers one by one under diffusers' names."""
XLABS = {
    "double_blocks.1.processor.qkv_lora1": BFL["double_blocks.1.img_attn.qkv"],
    "double_blocks.1.processor.proj_lora1": BFL["double_blocks.1.img_attn.proj"],
    "double_blocks.1.processor.qkv_lora2": BFL["double_blocks.1.txt_attn.qkv"],
    "double_blocks.1.processor.proj_lora2": BFL["double_blocks.1.txt_attn.proj"],
    "single_blocks.2.processor.qkv_lora": (DIM, [(f"single_transformer_blocks.2.{m}", o) for m, o in QKV]),
    "single_blocks.2.processor.proj_lora": BFL["single_blocks.2.linear2"],
}
CLIP = {
    f"text_model.encoder.layers.1.{name}": (inputs, [(f"encoder.layers.1.{name}", outputs)])
    for name, inputs, outputs in (
        ("self_attn.q_proj", 128, 128), ("self_attn.k_proj", 128, 128), ("self_attn.v_proj", 128, 128),
        ("mlp.fc1", 128, 256), ("mlp.fc2", 256, 128),
    )
}  # fmt: skip
"""Without out_proj, as some trainers leave it."""
T5 = {
    f"encoder.block.1.layer.{name}": (inputs, [(f"encoder.block.1.layer.{name}", outputs)])
    for name, inputs, outputs in (
        ("0.SelfAttention.q", 128, 128), ("0.SelfAttention.o", 128, 128), ("1.DenseReluDense.wi_0", 128, 256),
        ("1.DenseReluDense.wi_1", 128, 256), ("1.DenseReluDense.wo", 256, 128),
    )
}  # fmt: skip


def flat(name):
    return name.replace(".", "_")


def same(name):
    return name


# Scheme → [(layers, part, prefix, how names are written, ends of down, up and alpha)]
KOHYA = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT = (".lora_A.weight", ".lora_B.weight", None)
SCHEMES = {
    "kohya": [
        (BFL, "transformer", "lora_unet_", flat, KOHYA),
        (CLIP, "text_encoder", "lora_te1_", flat, KOHYA),
        (T5, "text_encoder_2", "lora_te3_", flat, KOHYA),
    ],
    "kohya in the names of diffusers": [(OWN, "transformer", "lora_unet_", flat, KOHYA)],
    "XLabs": [(XLABS, "transformer", "", same, (".down.weight", ".up.weight", None))],
    "diffusers": [
        (OWN, "transformer", "transformer.", same, PEFT),
        (CLIP, "text_encoder", "text_encoder.", same, PEFT),
        (T5, "text_encoder_2", "text_encoder_2.", same, PEFT),
    ],
    "diffusers, lora_down and alpha": [(OWN, "transformer", "transformer.", same, KOHYA)],
    "diffusers, lora.down": [
        (OWN, "transformer", "transformer.", same, (".lora.down.weight", ".lora.up.weight", ".alpha")),
        (CLIP, "text_encoder", "text_encoder.", same, (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight",
                                                       ".alpha")),
    ],
    "PEFT": [(OWN, "transformer", "base_model.model.", same, PEFT)],
    "PEFT, default": [
        (OWN, "transformer", "base_model.model.", same, (".lora_A.default.weight", ".lora_B.default.weight", None))
    ],
    "PEFT, another adapter": [
        (OWN, "transformer", "base_model.model.", same, (".lora_A.my-style.weight", ".lora_B.my-style.weight", None))
    ],
    "PEFT of a whole pipeline": [(OWN, "transformer", "base_model.model.transformer.", same, PEFT)],
    "no prefix": [(OWN, "transformer", "", same, PEFT)],
    "ComfyUI": [
        (BFL, "transformer", "diffusion_model.", same, KOHYA),
        (CLIP, "text_encoder", "text_encoders.clip_l.transformer.", same, KOHYA),
        (T5, "text_encoder_2", "text_encoders.t5xxl.transformer.", same, KOHYA),
    ],
    "ComfyUI, lora_A": [(BFL, "transformer", "diffusion_model.", same, PEFT)],
    "ComfyUI, names of diffusers": [(OWN, "transformer", "diffusion_model.", same, PEFT)],
    "Black Forest Labs": [(BFL, "transformer", "", same, PEFT)],
    "OneTrainer": [
        (OWN, "transformer", "lora_transformer_", flat, KOHYA),
        (CLIP, "text_encoder", "lora_te1_", flat, KOHYA),
        (T5, "text_encoder_2", "lora_te2_", flat, KOHYA),
    ],
    "LyCORIS": [(OWN, "transformer", "lycoris_", flat, KOHYA)],
    "two schemes in one file": [
        ({n: v for n, v in OWN.items() if not n.startswith("single")}, "transformer", "transformer.", same, PEFT),
        ({n: v for n, v in BFL.items() if n.startswith("single")}, "transformer", "lora_unet_", flat, KOHYA),
    ],
}  # fmt: skip
"""Every name that ``docs/loras.md`` lists."""


def made(scheme, *, dtype=torch.float32, seed=0):
    """(tensors of a file, {(part, layer): what is to be added to its weight})."""
    generator = torch.Generator().manual_seed(seed)
    tensors, truth = {}, {}
    for layers, part, prefix, written, (down_end, up_end, alpha_end) in SCHEMES[scheme]:
        for name, (inputs, to) in layers.items():
            down = (torch.randn(RANK, inputs, generator=generator) * 0.1).to(dtype)
            up = (torch.randn(sum(outputs for _, outputs in to), RANK, generator=generator) * 0.1).to(dtype)
            stem = prefix + written(name)
            tensors[stem + down_end], tensors[stem + up_end] = down, up
            if alpha_end:
                tensors[stem + alpha_end] = torch.tensor(ALPHA)
            scale = ALPHA / RANK if alpha_end else 1.0
            added = scale * up.float() @ down.float()
            for each, rows in zip(to, added.split([outputs for _, outputs in to]), strict=True):
                # Black Forest Labs' shift and scale are scale and shift in diffusers.
                turned = each[0] == HALVES_SWAPPED and layers is BFL
                truth[part, each[0]] = torch.cat(rows.chunk(2)[::-1]) if turned else rows
    return tensors, truth


def write(folder, scheme, *, config=None, header=None, name=None, **more):
    """A file of a scheme, and the truth. config: to stand in an adapter_config.json. header: of the file."""
    tensors, truth = made(scheme, **more)
    file = folder / (name or ("adapter_model.safetensors" if config is not None else "lora.safetensors"))
    save_file(tensors, file, metadata=None if header is None else header)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return file, truth
