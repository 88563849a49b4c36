"""Every quantization: bytes, memory, time and error of a FLUX-shaped transformer, and pictures of the embedded model.

    python bench/quantization.py                         # the figures of docs/quantization.md, about 20 minutes
    python bench/quantization.py --quick                 # a narrow transformer and two pictures, and no file
    python bench/quantization.py --device cuda --precision bf16 --blocks 19,38 --tokens 8832

The transformer has FLUX.1-dev's widths (3072, 24 heads, 4096 and 768 for text) and random weights; some channels of
its activations are twelve times as large as others, and some tokens ten times. Each quantization is a process of its
own: it is loaded layer by layer from shards, runs once, and then in turn with the transformer that is not quantized.
Error: of the output, relative (root mean square). Time: median of the ratios of neighbouring runs. Memory: what the
process held at most beyond what it held before.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dit360_core.models.flux.small import enliven
from dit360_core.system.dtypes import torch_dtype
from dit360_core.system.machine import Machine
from peak import in_a_process, memory, reset_peak
from quantization_page import write_figures
from rich.console import Console
from rich.progress import track

DOCS = Path(__file__).parents[1] / "docs"
MODES = ("none", "int8", "fp8", "int8-bnb", "int4", "int4-double")
SHARD = 256 * 2**20


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Of what is not quantized: fp32 or bf16.")] = "fp32",
    blocks: Annotated[str, typer.Option(help="Double and single blocks.")] = "1,2",
    tokens: Annotated[int, typer.Option(help="Image tokens.")] = 2048,
    rounds: Annotated[int, typer.Option(help="Pairs of timed runs.")] = 5,
    prompts: Annotated[int, typer.Option(help="Pictures for each quantization.")] = 32,
    quick: Annotated[bool, typer.Option("--quick", help="A narrow transformer, two pictures, no file.")] = False,
) -> None:
    """Measure all, write docs/quantization-DEVICE.json and the tables of docs/quantization.md."""
    console = Console()
    asked = {
        "device": device,
        "precision": precision,
        "blocks": [int(n) for n in blocks.split(",")],
        "tokens": 256 if quick else tokens,
        "rounds": 1 if quick else rounds,
        "heads": 4 if quick else 24,
    }
    with tempfile.TemporaryDirectory() as folder:
        make_transformer(Path(folder), asked)
        rows = [
            {"mode": mode, **in_a_process(__file__, {**asked, "mode": mode, "folder": folder})}
            for mode in track(MODES, description="transformer", console=console)
        ]
    report = {**about(asked), "rows": rows, "pictures": list(pictures(2 if quick else prompts, device, console))}
    if quick:
        console.print_json(data=report)
        return
    (DOCS / f"quantization-{device}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    write_figures(DOCS)
    console.print(f"Written: {DOCS / 'quantization.md'}")


def about(asked: dict[str, Any]) -> dict[str, Any]:
    """What was measured, where and when."""
    machine = Machine.detect(asked["device"])
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine.device_name or machine.platform,
        "threads": torch.get_num_threads(),
        "vnni": bool(getattr(torch.cpu, "_is_vnni_supported", bool)()),
        "versions": {name: machine.version(name) for name in ("torch", "diffusers", "bitsandbytes")},
        "asked": asked,
        "whole": whole_models(),
    }


# ----------------------------------------------------------------------------------------------- the transformer


def make_transformer(folder: Path, asked: dict[str, Any]) -> None:
    """A transformer of FLUX.1-dev's widths with random weights, in shards."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    double, single = asked["blocks"]
    with torch.device(asked["device"]):
        made = FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, num_attention_heads=asked["heads"], guidance_embeds=True
        ).to(torch_dtype(asked["precision"]))
    enliven(made, gate=0.5)
    made.cpu().save_pretrained(folder / "transformer", max_shard_size=SHARD)


def inputs(transformer: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """What one step of a panorama gives it."""
    generator = torch.Generator().manual_seed(1)
    rows = int(math.sqrt(asked["tokens"] / 2))
    columns = asked["tokens"] // rows

    def random(*shape: int) -> torch.Tensor:
        x = torch.randn(*shape, generator=generator)
        x[:, ::53] *= 10
        return x.to(asked["device"], transformer.dtype)

    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return {
        "hidden_states": random(1, rows * columns, 64),
        "encoder_hidden_states": random(1, 512, 4096),
        "pooled_projections": random(1, 768),
        "timestep": torch.full((1,), 0.5, device=asked["device"]),
        "guidance": torch.full((1,), 3.5, device=asked["device"]),
        "img_ids": ids.view(-1, 3).to(asked["device"]),
        "txt_ids": torch.zeros(512, 3, device=asked["device"]),
        "return_dict": False,
    }


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """One quantization of the transformer."""
    from diffusers import FluxTransformer2DModel
    from dit360_core.options import LoadOptions
    from dit360_core.planning.quantization import choose_quantization
    from dit360_core.plugins.registry import default_registry

    device, dtype = torch.device(asked["device"]), torch_dtype(asked["precision"])

    def plain() -> Any:
        return (
            FluxTransformer2DModel.from_pretrained(asked["folder"], subfolder="transformer", torch_dtype=dtype)
            .to(device)
            .eval()
        )

    # The trial of a small layer imports and warms what is measured next.
    machine = Machine.detect(asked["device"])
    options = LoadOptions(quantization_mode=asked["mode"])
    _, quantizer = choose_quantization(options, default_registry(), machine, asked["precision"])
    reset_peak(device)
    before, _ = memory(device)
    began = time.perf_counter()
    transformer, told = (plain(), {}) if quantizer is None else quantized(asked, quantizer, device, dtype)
    loading = time.perf_counter() - began
    held, peak = memory(device)
    result = {**told, "loading_s": loading, "held": held - before, "loading_peak": peak - before}
    reset_peak(device)
    given = inputs(transformer, asked)
    out, _ = timed(transformer, given, device)
    result["step_peak"] = memory(device)[1] - before
    if quantizer is None:
        _, seconds = timed(transformer, given, device)
        size = sum(p.nbytes for p in transformer.parameters())
        return {**result, "weights": size, "full": size, "error": 0.0, "time": 1.0, "seconds": seconds}
    reference = plain()
    right, _ = timed(reference, given, device)
    result["error"] = float((out.double() - right.double()).norm() / right.double().norm())
    ratios, mine = [], []
    for _ in range(asked["rounds"]):
        seconds = timed(transformer, given, device)[1]
        ratios.append(seconds / timed(reference, given, device)[1])
        mine.append(seconds)
    result["full"] = sum(p.nbytes for p in reference.parameters())
    return {**result, "time": statistics.median(ratios), "seconds": statistics.median(mine)}


def quantized(asked: dict[str, Any], quantizer: Any, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The transformer as a model's is loaded, and figures of its layers."""
    from dit360_core.models.flux.architecture import FLUX
    from dit360_core.models.weights.stream import Quantizing, load_part, survey

    how = Quantizing(
        networks=FLUX.networks, implementation=quantizer, parts=("transformer",), device=device, home=device
    )
    part = survey(Path(asked["folder"]), how)["transformer"]
    transformer, done = load_part(part, how, dtype)
    kinds: dict[str, list[float]] = {}
    for layer in done.layers:
        kinds.setdefault(re.sub(r"\.\d+\.", ".N.", layer.name), []).append(layer.error)
    inside = {layer.name for layer in done.layers}
    others = sum(p.nbytes for name, p in transformer.named_parameters() if name.rpartition(".")[0] not in inside)
    return transformer, {
        "weights": done.bytes + others,
        "layers": len(done.layers),
        "kernels": done.kernels,
        "layer_bytes": done.bytes,
        "layer_bytes_before": done.bytes_before,
        "layer_error_median": done.errors.median,
        "layer_error_worst": done.errors.most,
        "errors": {kind: statistics.median(errors) for kind, errors in kinds.items()},
    }


def timed(transformer: Any, given: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, float]:
    """The output and the seconds it took."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.no_grad():
        out = transformer(**given)[0]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return out, time.perf_counter() - began


def whole_models() -> dict[str, dict[str, int]]:
    """Weights of FLUX.1-dev's parts that are quantized, and all others, counted on the meta device."""
    from accelerate import init_empty_weights
    from diffusers import FluxTransformer2DModel
    from dit360_core.models.flux.layers import policy_of
    from dit360_core.models.weights.selection import select_layers
    from transformers import T5Config, T5EncoderModel

    with init_empty_weights():
        parts = {
            "transformer": FluxTransformer2DModel(guidance_embeds=True),
            "text_encoder_2": T5EncoderModel(
                T5Config(
                    d_model=4096,
                    d_ff=10240,
                    d_kv=64,
                    num_heads=64,
                    num_layers=24,
                    vocab_size=32128,
                    feed_forward_proj="gated-gelu",
                )
            ),
        }
    found = {}
    for name, module in parts.items():
        chosen = select_layers(module, policy_of(name)).layers
        inside = sum(module.get_submodule(layer).weight.numel() for layer in chosen)
        found[name] = {"quantized": inside, "others": sum(p.numel() for p in module.parameters()) - inside}
    return found


# --------------------------------------------------------------------------------------------------- the pictures


def pictures(count: int, device: str, console: Console) -> Iterable[dict[str, Any]]:
    """Every quantization of the embedded model beside none: PSNR of pictures of one seed, adherence, seam."""
    import dit360_core as dit360
    import numpy as np

    from training import judge as judging
    from training.evaluate import tensor_of
    from training.prompts import held_out

    judge, wanted = judging.load(), held_out(count)
    references: list[Any] = []
    velocities: list[torch.Tensor] = []
    for mode in track(MODES, description="pictures", console=console):
        pipe = dit360.load("tiny", quantization_mode=mode, device=device)
        psnr, seams, right, seconds, errors = [], [], [], [], []
        outputs: list[torch.Tensor] = []
        pipe.engine.denoiser.register_forward_hook(lambda _m, _x, out, kept=outputs: kept.append(out[0].clone()))
        for seed, prompt in enumerate(wanted):
            outputs.clear()
            began = time.perf_counter()
            panorama = pipe.generate(prompt.text, seed=seed)
            seconds.append(time.perf_counter() - began)
            pixels = np.asarray(panorama.image, dtype=np.float64)
            if mode == "none":
                references.append(pixels)
                velocities.append(outputs[0])
            errors.append(float((outputs[0] - velocities[seed]).norm() / velocities[seed].norm()))
            off = float(np.square(pixels - references[seed]).mean())
            psnr.append(10 * math.log10(255**2 / off) if off else math.inf)
            verdict = judging.verdicts(judge, tensor_of(panorama)[None])[0]
            right += [verdict[name] == value for name, value in prompt.wanted.items()]
            seams.append(panorama.seam.ratio)
        yield {
            "mode": mode,
            "pictures": count,
            "weights": sum(part.bytes for part in pipe.state.quantized) or None,
            "weights_before": sum(part.bytes_before for part in pipe.state.quantized) or None,
            "error": statistics.median(errors),
            "psnr": None if mode == "none" else statistics.median(psnr),
            "psnr_worst": None if mode == "none" else min(psnr),
            "adherence": sum(right) / len(right),
            "checks": len(right),
            "seam": statistics.median(seams),
            "seconds": statistics.median(seconds),
        }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
