"""Forms of weights in single files: bits, error, time to load and memory, of safetensors' eight bits and GGUF's types.

    python bench/forms.py                # the table, about ten minutes on two cores
    python bench/forms.py --quick        # one picture and a smaller transformer

The embedded model's transformer is written in each form, and paints from it: PSNR against the picture of the weights as
they are, and the error of the first velocity, relative (root mean square). Few of its rows are a multiple of 256
numbers, as the K types ask; the others are stored in FALLBACK's types, as llama.cpp's and ComfyUI's converters do, so
beside it stands the velocity of a transformer of FLUX's shape with random weights, whose rows nearly all are. That one
is loaded, too, beside reading as many bytes in as many tensors by safetensors, in turn, both from files that the system
holds in memory: the medians of the ratios and of the differences of their times; and the most memory that loading takes
beyond what the process held when all was planned, over the size of the file. The part is loaded in bf16, so that all
that is in 16 bits stays so; what is not packed at all lies on the mapped file, and is read as it is used. The K types
are rounded to the nearest (``k_quants.py``); llama.cpp's own are better.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # whose writers of files these are

import attrs
import dit360_core as dit360
import gguf
import numpy as np
import torch
import typer
import weight_files
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.plugins.registry import default_registry
from dit360_core.system.memory import give_back_freed_memory
from k_quants import BLOCK, FALLBACK, check, encoded
from peak import in_a_process, memory, reset_peak
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scaled import make_model
from weight_files import E4M3, Form, int8, matrices, plain_fp8, scaled_fp8

PROMPTS = (
    "a castle above a meadow at sunset", "a lighthouse on a rocky coast at noon", "a village by a lake at night",
    "mountains behind a forest at dawn",
)  # fmt: skip
Tensors = dict[str, torch.Tensor]
HALF = {"other": torch.bfloat16}
SAFETENSORS = {
    "bf16": Form(None, chosen=lambda name, tensor: False, **HALF),
    "fp8": Form(plain_fp8(E4M3), **HALF),
    "scaled fp8": Form(scaled_fp8(E4M3, "scale_weight", inputs="scale_input"), note=True, **HALF),
    "int8": Form(int8(), marks="beside", **HALF),
    "int8, turned": Form(int8(groups=(256, 64)), marks="beside", **HALF),
}
GGUF = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")


@attrs.frozen(kw_only=True)
class Written:
    """A transformer in a file.

    bits: of a number of it on the average, scales and all.
    share: of its numbers that are in the form itself, and in no other one.
    """

    file: Path
    bits: float
    share: float


# -------------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, form: str, tensors: Tensors) -> Written:
    """A transformer's tensors (float32) in a form."""
    numbers = sum(tensor.numel() for tensor in tensors.values())
    name = form.replace(", ", "-").replace(" ", "-")
    if form in SAFETENSORS:
        file = folder / f"{name}.safetensors"
        weight_files.write(file, tensors, SAFETENSORS[form])
        held = load_file(file)
        chosen = SAFETENSORS[form].chosen
        inside = [key for key, tensor in tensors.items() if form == "bf16" or chosen(key, tensor)]
    else:
        file, inside = folder / f"{name}.gguf", []
        stored: dict[str, tuple[Any, str]] = {}
        for key, tensor in tensors.items():
            kind, matrix = type_for(key, tensor, form), tensor.float().numpy()
            if kind in FALLBACK:
                stored[key] = encoded(matrix, kind), kind
            else:
                stored[key] = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType[kind]), kind
            inside += [key] if kind == form else []
        weight_files.write_gguf(file, stored)
        held = {key: torch.from_numpy(np.ascontiguousarray(data)) for key, (data, _) in stored.items()}
    # As many bytes in as many tensors, for safetensors to read.
    save_file({key: each.reshape(-1).view(torch.uint8) for key, each in held.items()}, twin(file))
    return Written(
        file=file,
        bits=8 * sum(each.nbytes for each in held.values()) / numbers,
        share=sum(tensors[key].numel() for key in inside) / numbers,
    )


def type_for(name: str, tensor: torch.Tensor, wanted: str) -> str:
    """GGUF's type of a tensor in a file of one."""
    if not matrices(name, tensor):
        return "F32"
    kind = FALLBACK.get(wanted, wanted) if tensor.shape[1] % BLOCK else wanted
    return kind if tensor.shape[1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 0 else "F16"


def twin(file: Path) -> Path:
    """Where the same bytes lie for safetensors."""
    return file.with_name(f"{file.name}-bytes.safetensors")


# ------------------------------------------------------------------------------------------------------------ measuring


def painted(options: dict[str, Any], prompts: tuple[str, ...], steps: int) -> tuple[list[Any], list[torch.Tensor]]:
    """Pictures of the embedded model, and the first velocity of each."""
    pipe = dit360.load("tiny", precision="fp32", device="cpu", **options)
    outputs: list[torch.Tensor] = []
    pipe.engine.denoiser.register_forward_hook(lambda _m, _x, out: outputs.append(out[0].clone()))
    pictures, velocities = [], []
    for seed, prompt in enumerate(prompts):
        outputs.clear()
        panorama = pipe.generate(prompt, width=512, steps=steps, seed=seed)
        pictures.append(np.asarray(panorama.image, dtype=np.float64))
        velocities.append(outputs[0])
    return pictures, velocities


def velocity(model: Path, options: dict[str, Any]) -> torch.Tensor:
    """The first velocity of a model with random weights."""
    pipe = dit360.load(str(model), precision="fp32", device="cpu", **options)
    outputs: list[torch.Tensor] = []
    pipe.engine.denoiser.register_forward_hook(lambda _m, _x, out: outputs.append(out[0].clone()))
    pipe.sample(pipe.encode(PROMPTS[0], max_sequence_length=32), width=256, steps=1, seed=0)
    return outputs[0]


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, root mean square."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def psnr(one: Any, other: Any) -> float:
    """Of pictures in eight bits."""
    square = float(np.square(one - other).mean())
    return 10 * math.log10(255**2 / square) if square else math.inf


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """The memory and the time that loading takes."""
    device, file = torch.device("cpu"), Path(asked["file"])
    dit360.load("tiny", precision="bf16", device="cpu", transformer=asked["warm"])  # what is imported on the way
    given = LoadOptions(model=asked["model"], transformer=str(file), precision="bf16", device="cpu")

    def load() -> None:
        prepared.read(["transformer"], ())

    def read() -> None:
        with safe_open(twin(file), framework="pt") as opened:
            kept = [opened.get_tensor(name).clone() for name in opened.keys()]  # noqa: SIM118
        del kept

    prepared = prepare(given, registry=default_registry())
    give_back_freed_memory("cpu")
    reset_peak(device)
    before, _ = memory(device)
    load()
    peak = memory(device)[1] - before
    ratios, beyond = [], []
    for number in range(asked["rounds"]):
        taken: dict[Callable[[], None], float] = {}
        for run in (load, read) if number % 2 else (read, load):
            began = time.perf_counter()
            run()
            taken[run] = time.perf_counter() - began
        ratios.append(taken[load] / taken[read])
        beyond.append(taken[load] - taken[read])
    return {
        "peak": peak / file.stat().st_size,
        "ratio": statistics.median(ratios),
        "beyond": statistics.median(beyond),
        "size": file.stat().st_size,
    }


# ---------------------------------------------------------------------------------------------------------------- table


def main(
    rounds: Annotated[int, typer.Option(help="Pairs of timed loads.")] = 9,
    steps: Annotated[int, typer.Option(help="Of a picture.")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="One picture, a narrow transformer, three rounds.")] = False,
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/results/forms.json"),
) -> None:
    """Print a Markdown table, and write its figures as JSON."""
    console = Console(stderr=True)
    # Each tensor in memory of its own, new each time: else the C library now and then keeps some for the next run.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
    check()
    prompts, size = (PROMPTS[:1], "narrow") if quick else (PROMPTS, "middle")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_model(folder / "model", size)
        own = weight_files.part(EMBEDDED_MODEL, "transformer")
        large = {name: tensor.bfloat16().float() for name, tensor in weight_files.part(model, "transformer").items()}
        for name in ("tiny", "large"):
            (folder / name).mkdir()
        right, first = painted({}, prompts, steps)
        plain = write(folder / "large", "bf16", large)
        wanted = velocity(model, {"transformer": str(plain.file)})
        for form in track([*SAFETENSORS, *GGUF], description="forms", console=console):
            small, big = (write(folder / name, form, each) for name, each in (("tiny", own), ("large", large)))
            pictures, velocities = painted({"transformer": str(small.file)}, prompts, steps)
            asked = {"model": str(model), "file": str(big.file), "warm": str(small.file), "rounds": rounds}
            rows[form] = {
                "bits": small.bits,
                "share": small.share,
                "psnr": statistics.mean(map(psnr, pictures, right)),
                "velocity": statistics.mean(map(off, velocities, first)),
                "bits of the larger": big.bits,
                "share of the larger": big.share,
                "velocity of the larger": off(velocity(model, {"transformer": str(big.file)}), wanted),
                **in_a_process(__file__, {**asked, "rounds": 3 if quick else rounds}),
            }
            for file in (small.file, big.file):
                file.unlink()
                twin(file).unlink()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| form | bits a weight | in the form itself | PSNR | velocity off | bits, larger | velocity off, larger "
        "| time to load / to read | and beyond it | memory to load / file |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for form, row in rows.items():
        cells = [
            form,
            f"{row['bits']:.2f}",
            f"{row['share']:.0%}",
            f"{row['psnr']:.1f} dB",
            f"{row['velocity']:.2%}",
            f"{row['bits of the larger']:.2f} ({row['share of the larger']:.0%})",
            f"{row['velocity of the larger']:.2%}",
            *([row["failed"], "", ""] if "failed" in row else _loading(row)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _loading(row: dict[str, Any]) -> list[str]:
    return [f"{row['ratio']:.2f}", f"{1000 * row['beyond']:+.0f} ms", f"{row['peak']:.2f}"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
