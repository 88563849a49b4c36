"""Forms of weights in single files: bits, error, time to load and memory, of safetensors' eight bits and GGUF's types.

    python bench/forms.py                # the table, about ten minutes on two cores
    python bench/forms.py --quick        # one picture and a smaller transformer

The embedded model's transformer is written in each form by ``dit360 quantize``, and paints from it: PSNR against the
picture of the weights as they are, and the error of the first velocity, relative (root mean square). Few of its rows
are a multiple of 256 numbers, as the K types ask; the others are stored in the types next to them, as llama.cpp's and
ComfyUI's converters do. So beside it stands the velocity of a transformer of FLUX's shape with random weights, whose
rows nearly all are. That one is loaded, too, beside reading as many bytes in as many tensors by safetensors, in turn,
both from files that the system holds in memory: the medians of the ratios and of the differences of their times; and
the most memory that loading takes beyond what the process held when all was planned, over the size of the file. The
part is loaded in bf16, so that all that is in 16 bits stays so; what is not packed at all lies on the mapped file, and
is read as it is used. Plain fp8, which nobody should write, is written by the tests.
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
import numpy as np
import torch
import typer
import weight_files
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.options import LoadOptions
from dit360_core.pipeline.loading import prepare
from dit360_core.plugins import EMBEDDED_MODEL
from dit360_core.plugins.registry import default_registry
from dit360_core.system.memory import give_back_freed_memory
from peak import in_a_process, memory, reset_peak
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from scaled import make_model
from weight_files import E4M3, Form, matrices, plain_fp8

PROMPTS = (
    "a castle above a meadow at sunset", "a lighthouse on a rocky coast at noon", "a village by a lake at night",
    "mountains behind a forest at dawn",
)  # fmt: skip
Tensors = dict[str, torch.Tensor]
PLAIN_FP8 = "fp8"
GGUF = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
FORMS = {
    "bf16": "none", PLAIN_FP8: "", "scaled fp8": "fp8", "int8": "int8", "int8 turned": "int8-convrot",
    **{kind: kind for kind in GGUF},
}  # fmt: skip
"""Form → the mode of ``dit360 quantize``."""


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


def write(folder: Path, form: str, model: str, tensors: Tensors) -> Written:
    """A model's transformer in a form.

    model: its folder or name.
    tensors: of it (float32).
    """
    numbers = sum(tensor.numel() for tensor in tensors.values())
    file = folder / f"{form.replace(' ', '-')}.{'gguf' if form in GGUF else 'safetensors'}"
    if form == PLAIN_FP8:
        weight_files.write(file, tensors, Form(plain_fp8(E4M3), other=torch.bfloat16))
        inside = sum(tensor.numel() for name, tensor in tensors.items() if matrices(name, tensor))
    else:
        mode, precision = ("none", form) if form == "bf16" else (FORMS[form], "auto")
        state = dit360.quantize(model, file, quantization_mode=mode, precision=precision)
        layers = {layer.name: layer.kernel for layer in state.quantized[0].layers}
        described = open_file(file).tensors
        inside = sum(
            math.prod(about.shape)
            for name, about in described.items()
            if form == "bf16" or layers.get(name.removesuffix(".weight")) == mode
        )
    described = open_file(file).tensors
    # As many bytes in as many tensors, for safetensors to read.
    same = {name: torch.zeros(about.bytes, dtype=torch.uint8) for name, about in described.items()}
    save_file(same, twin(file))
    bits = 8 * sum(about.bytes for about in described.values()) / numbers
    return Written(file=file, bits=bits, share=inside / numbers)


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
    prompts, size = (PROMPTS[:1], "narrow") if quick else (PROMPTS, "middle")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_model(folder / "model", size)
        own = weight_files.part(EMBEDDED_MODEL, "transformer")
        large = {name: tensor.bfloat16().float() for name, tensor in weight_files.part(model, "transformer").items()}
        for name in ("tiny", "large", "plain"):
            (folder / name).mkdir()
        right, first = painted({}, prompts, steps)
        plain = write(folder / "plain", "bf16", str(model), large)
        wanted = velocity(model, {"transformer": str(plain.file)})
        for form in track(FORMS, description="forms", console=console):
            small, big = (
                write(folder / name, form, whose, each)
                for name, whose, each in (("tiny", "tiny", own), ("large", str(model), large))
            )
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
