"""Single files of weights in the forms that people have, and by hand what the numbers in them mean.

What a file means is computed here from its own bytes, by the format's description and with numpy alone: no function of
the program, and none of PyTorch's that the program uses, turns anything back.
"""

import functools
import json
from pathlib import Path

import attrs
import lora_schemes
import numpy as np
import torch
from safetensors.torch import load_file, save_file

FILES = {
    "transformer": "diffusion_pytorch_model.safetensors", "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors", "text_encoder_2": "model.safetensors",
}  # fmt: skip
CONTAINERS = {
    "transformer": "model.diffusion_model.", "vae": "vae.",
    "text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.t5xxl.transformer.",
}  # fmt: skip
"""What stands before the names in ComfyUI's files of a whole model."""
NORMS = {
    "attn.norm_q": ("img_attn.norm.query_norm", "norm.query_norm"),
    "attn.norm_k": ("img_attn.norm.key_norm", "norm.key_norm"),
    "attn.norm_added_q": ("txt_attn.norm.query_norm", None),
    "attn.norm_added_k": ("txt_attn.norm.key_norm", None),
}
"""diffusers' → Black Forest Labs', in a double and in a single block."""


def part(folder, name, dtype=torch.float32):
    """The tensors of a part of a model."""
    return {key: tensor.to(dtype) for key, tensor in load_file(Path(folder) / name / FILES[name]).items()}


# ---------------------------------------------------------------------------------------------------------------- names


def original_names(tensors):
    """A transformer's tensors as Black Forest Labs have them: one matrix for queries, keys and values."""
    renamed, found = {name: layers for name, (_, layers) in lora_schemes.TOP.items()}, {}
    for kind, theirs, table, which in (
        ("transformer_blocks", "double_blocks", lora_schemes.DOUBLE, 0),
        ("single_transformer_blocks", "single_blocks", lora_schemes.SINGLE, 1),
    ):
        for number in sorted({int(name.split(".")[1]) for name in tensors if name.startswith(f"{kind}.")}):
            for name, (_, layers) in table.items():
                renamed[f"{theirs}.{number}.{name}"] = [(f"{kind}.{number}.{layer}", rows) for layer, rows in layers]
            for name, there in NORMS.items():
                if there[which]:
                    found[f"{theirs}.{number}.{there[which]}.scale"] = tensors[f"{kind}.{number}.{name}.weight"]
    for name, layers in renamed.items():
        for leaf in ("weight", "bias"):
            pieces = [tensors[f"{layer}.{leaf}"] for layer, _ in layers]
            whole = torch.cat(pieces)
            # Black Forest Labs' shift and scale are scale and shift in diffusers.
            turned = layers[0][0] == lora_schemes.HALVES_SWAPPED
            found[f"{name}.{leaf}"] = torch.cat(whole.chunk(2)[::-1]) if turned else whole
    assert sum(tensor.numel() for tensor in found.values()) == sum(tensor.numel() for tensor in tensors.values())
    return {name: tensor.contiguous() for name, tensor in found.items()}


# ------------------------------------------------------------------------------------------- what stored numbers mean


def _fp8(exponents, mantissas, special):
    """The numbers of 256 bytes: sign, exponent, mantissa (OCP's 8-bit Floating Point Specification)."""
    bias, found = 2 ** (exponents - 1) - 1, np.zeros(256)
    for byte in range(256):
        exponent, mantissa = byte >> mantissas & 2**exponents - 1, byte & 2**mantissas - 1
        share = mantissa / 2**mantissas
        number = share * 2.0 ** (1 - bias) if exponent == 0 else (1 + share) * 2.0 ** (exponent - bias)
        found[byte] = -number if byte >> 7 else number
        if special(exponent, mantissa):
            found[byte] = np.nan
    return found


_MEANT = {
    torch.float8_e4m3fn: _fp8(4, 3, lambda exponent, mantissa: (exponent, mantissa) == (15, 7)),
    torch.float8_e5m2: _fp8(5, 2, lambda exponent, mantissa: exponent == 31),
}


def meant(stored):
    """What fp8 or int8 means, without a scale: ``float64``."""
    bytes_ = stored.contiguous().view(torch.uint8).numpy()
    table = _MEANT.get(stored.dtype)
    return bytes_.view(np.int8).astype(np.float64) if table is None else table[bytes_]


@functools.cache
def hadamard(order):
    """The regular Hadamard matrix of ConvRot, as ComfyUI's comfy-kitchen builds it: H4 ⊗ H4 ⊗ …, over √order."""
    four = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=np.float64)
    found = four
    while len(found) < order:
        found = np.kron(found, four)
    return found / np.sqrt(order)


def turned(matrix, group, way):
    """A matrix whose columns, so many at a time, are multiplied by H or Hᵀ: W·Hᵀ is what is stored."""
    h = hadamard(group) if way == "back" else hadamard(group).T
    return (matrix.reshape(len(matrix), -1, group) @ h).reshape(matrix.shape)


# --------------------------------------------------------------------------------------------------------------- forms


@attrs.frozen
class Stored:
    """A matrix as a file has it: end of a name → tensor, the numbers that are meant, and what ComfyUI's mark says."""

    tensors: dict
    meant: np.ndarray
    mark: dict | None = None


def plain_fp8(dtype):
    """Each number by itself."""

    def store(weight):
        stored = weight.to(dtype)
        return Stored({"weight": stored}, meant(stored))

    return store


def scaled_fp8(dtype, scale_name, *, rows=False, scale_dtype=torch.float32, scale_shape=(1,), inputs=None, mark=None):
    """With a scale for all of a matrix, or for each row."""

    def store(weight):
        most = weight.abs().amax(1) if rows else weight.abs().max()
        scale = (most.clamp(min=1e-8) / (448 if dtype is torch.float8_e4m3fn else 57344)).to(scale_dtype)
        scale = scale.reshape(-1, 1) if rows else scale
        stored = (weight / scale.float()).to(dtype)
        numbers = meant(stored) * scale.double().numpy()
        tensors = {"weight": stored, scale_name: scale if rows else scale.reshape(scale_shape)}
        if inputs:
            tensors[inputs] = torch.ones(1)
        return Stored(tensors, numbers, mark)

    return store


def int8(*, rows=True, groups=()):
    """ComfyUI's: the scale in F32 for each row, or one; turned by the largest of the groups that fits."""

    def store(weight):
        numbers, group = weight.double().numpy(), next((each for each in groups if weight.shape[1] % each == 0), None)
        if group:
            numbers = turned(numbers, group, "there")
        most = np.abs(numbers).max(1, keepdims=True) if rows else np.abs(numbers).max()
        scale = torch.from_numpy(np.asarray(np.maximum(most, 1e-8) / 127)).float()
        stored = torch.from_numpy(np.rint(numbers / scale.numpy())).clamp(-128, 127).to(torch.int8)
        back = meant(stored) * scale.double().numpy()
        mark = {"format": "int8_tensorwise"} | ({"convrot": True, "convrot_groupsize": group} if group else {})
        return Stored(
            {"weight": stored, "weight_scale": scale}, turned(back, group, "back") if group else back, mark
        )  # fmt: skip

    return store


def matrices(name, tensor):
    """What is put into fewer bits: every matrix."""
    return tensor.ndim == 2 and name.endswith(".weight")


def of_layers(name, tensor):
    """The same without tables of tokens and positions, as ComfyUI's scaled files have it."""
    return matrices(name, tensor) and not any(part in name for part in ("shared.", "embed", "relative_attention"))


@attrs.frozen
class Form:
    """How a file is written.

    store: of a matrix.
    chosen: of which (name, tensor).
    marks: where ComfyUI's marks stand: in a tensor beside each, in the header, or nowhere.
    note: whether there is a tensor ``scaled_fp8``.
    other: dtype of all other tensors.
    """

    store: object
    chosen: object = matrices
    marks: str = ""
    note: bool = False
    other: torch.dtype = torch.float32


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FORMS = {
    "fp8": Form(plain_fp8(E4M3)),
    "fp8, E5M2": Form(plain_fp8(E5M2), other=torch.float16),
    "scaled fp8": Form(scaled_fp8(E4M3, "scale_weight", inputs="scale_input"), chosen=of_layers, note=True),
    "scaled fp8, one number": Form(scaled_fp8(E4M3, "scale_weight", scale_shape=()), note=True),
    "scaled fp8, marked": Form(
        scaled_fp8(E4M3, "weight_scale", inputs="input_scale", mark={"format": "float8_e4m3fn"}), marks="beside"
    ),
    "scaled fp8, told in the header": Form(
        scaled_fp8(E5M2, "weight_scale", mark={"format": "float8_e5m2"}), chosen=of_layers, marks="header"
    ),
    "scaled fp8 by rows": Form(scaled_fp8(E4M3, "weight_scale", rows=True, scale_dtype=torch.float16)),
    "int8": Form(int8(), marks="beside"),
    "int8, one scale": Form(int8(rows=False), chosen=of_layers, marks="beside"),
    "int8 without marks": Form(int8()),
    "int8 turned": Form(int8(groups=(256, 64, 4)), marks="beside"),
    "int8 turned, by 16": Form(int8(groups=(16, 4)), chosen=of_layers, marks="header"),
}
"""All that is read of safetensors, as it is found."""


def as_tensor(text):
    """A text in bytes."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def stored(tensors, form, prefix=""):
    """Tensors (float32) in a form: those of a file, its metadata, and what they mean under their own names."""
    found, means, layers = {}, {}, {}
    for name, tensor in tensors.items():
        if not form.chosen(name, tensor):
            found[prefix + name] = tensor.to(form.other)
            means[name] = tensor.to(form.other).float()
            continue
        made, layer = form.store(tensor), name.removesuffix(".weight")
        found |= {f"{prefix}{layer}.{leaf}": each.contiguous() for leaf, each in made.tensors.items()}
        means[name] = torch.from_numpy(made.meant).float()
        if form.marks == "beside" and made.mark:
            found[f"{prefix}{layer}.comfy_quant"] = as_tensor(json.dumps(made.mark))
        elif form.marks == "header" and made.mark:
            layers[layer] = made.mark
    if form.note:
        found[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    told = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})} if layers else None
    return found, told, means


def write(file, tensors, form, prefix=""):
    """A file in a form. Returns what it means: name → float32."""
    found, told, means = stored(tensors, form, prefix)
    save_file(found, file, metadata=told)
    return means


# ---------------------------------------------------------------------------------------------------------------- GGUF

HALVES = {
    "Q8_0": (0,), "Q6_K": (208,), "Q5_K": (0, 2), "Q5_1": (0, 2), "Q5_0": (0,), "Q4_K": (0, 2), "Q4_1": (0, 2),
    "Q4_0": (0,), "Q3_K": (108,), "Q2_K": (80, 82), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Type → at which bytes of a block a number in fp16 lies (ggml-common.h)."""


def random_blocks(kind, rows, columns, seed=0):
    """``(rows, bytes)``: any bits, but that the scales in fp16 are finite and of the size of weights' scales."""
    import gguf

    block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    draw = np.random.default_rng([seed, len(kind), rows, columns])
    blocks = draw.integers(0, 256, (rows * columns // block, width), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = (draw.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


def as_gguf(tensors, kind):
    """Name → (numbers or blocks as they are stored, type) with every matrix that fits in one type, the rest in F32."""
    import gguf

    type_ = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[type_]
    found = {}
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        fits = matrices(name, tensor) and numbers.shape[1] % block == 0
        found[name] = (gguf.quants.quantize(numbers, type_), kind) if fits else (numbers, "F32")
    return found


def write_gguf(file, stored, *, values=(), alignment=None):
    """A file by the gguf package's writer.

    stored: as :func:`as_gguf` gives it.
    values: (method of the writer, arguments) for what else the header says.

    Returns what it means by the gguf package: name → float32.
    """
    import gguf

    writer = gguf.GGUFWriter(str(file), "flux")
    if alignment:
        writer.add_custom_alignment(alignment)
    for method, *arguments in values:
        getattr(writer, method)(*arguments)
    means = {}
    for name, (numbers, kind) in stored.items():
        type_ = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, numbers, raw_dtype=type_)
        means[name] = torch.from_numpy(np.array(gguf.quants.dequantize(numbers, type_), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return means
