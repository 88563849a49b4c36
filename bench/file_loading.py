"""Time to load a transformer from a single file of 1.6 GB, against reading the same bytes with safetensors.

FLUX.1-dev's widths with seven blocks, numbers that mean nothing. Medians of interleaved runs:

    python bench/file_loading.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from dit360_core.models.architecture import DENOISER
from dit360_core.models.composed import write_manifest
from dit360_core.models.families import architecture_of
from dit360_core.models.weights.forms.kept import kept_parts, load_kept
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.plugins.registry import default_registry
from safetensors import safe_open
from safetensors.torch import save_file

ROUNDS = 5
_BLOCKS = {"num_layers": 3, "num_single_layers": 4}
_KIND = gguf.GGMLQuantizationType.Q8_0


def main() -> None:
    (entry,) = default_registry().find("model", "dit360")
    shapes = Path(entry.offer.shape)
    family = architecture_of(shapes)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        (place / DENOISER).mkdir()
        config = json.loads((shapes / DENOISER / "config.json").read_text("utf-8"))
        (place / DENOISER / "config.json").write_text(json.dumps({**config, **_BLOCKS}), encoding="utf-8")
        module = family.networks.empty(DENOISER, place / DENOISER)
        wanted = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
        print("| form | GB | loading against reading | seconds |")
        print("|---|---|---|---|")
        for form, write in (("fp8", _fp8), ("Q8_0", _gguf)):
            file, same = write(place, wanted)

            def load(file: Path = file) -> None:
                write_manifest(family, family.part(DENOISER), open_file(file), place / DENOISER)
                kept = kept_parts(family, place)[DENOISER]
                load_kept(
                    family.networks, kept, place / DENOISER, torch.bfloat16, home=torch.device("cpu")
                )  # fmt: skip

            pairs = [(_seconds(load), _seconds(lambda same=same: _read(same))) for _ in range(ROUNDS)]  # type: ignore[misc]
            ratio, took = (statistics.median(each) for each in ([a / b for a, b in pairs], [a for a, _ in pairs]))
            print(f"| {form} | {file.stat().st_size / 1e9:.1f} | {ratio:.2f} | {took:.2f} |")


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _read(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        held = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    del held


def _fp8(place: Path, wanted: dict[str, tuple[int, ...]]) -> tuple[Path, Path]:
    eight = torch.float8_e4m3fn
    tensors = {
        name: torch.zeros(shape, dtype=eight if len(shape) == 2 else torch.float16) for name, shape in wanted.items()
    }
    save_file(tensors, place / "fp8.safetensors")
    return place / "fp8.safetensors", place / "fp8.safetensors"


def _gguf(place: Path, wanted: dict[str, tuple[int, ...]]) -> tuple[Path, Path]:
    """The file, and one of safetensors with the same bytes."""
    block, width = gguf.GGML_QUANT_SIZES[_KIND]
    writer, same = gguf.GGUFWriter(str(place / "x.gguf"), "flux"), {}
    for name, shape in wanted.items():
        small = len(shape) == 2 and shape[1] % block == 0
        numbers = np.zeros((shape[0], shape[1] // block * width), np.uint8) if small else np.zeros(shape, np.float32)
        writer.add_tensor(name, numbers, raw_dtype=_KIND if small else None)
        same[name] = torch.from_numpy(numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(same, place / "same.safetensors")
    return place / "x.gguf", place / "same.safetensors"


if __name__ == "__main__":
    main()
