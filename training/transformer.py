# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Trains the transformer by flow matching on padded latents, DiT360's way, then distils guidance into its input.

Several workers (processes of one thread each) may share every batch; they average their gradients once a step, which
suffers far less from other programs on the same cores than threads that meet in every operation.
"""

from __future__ import annotations

import copy
import random
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from training import checkpoint, text
from training.captions import caption
from training.data import RUNS
from training.flux_parts import build_transformer, pack, pad, position_ids, shift_sigma, time_shift_mu
from training.latents import LATENTS, SIZES, read
from training.scenes import Scene
from training.schedule import Clock, learning_rate, set_learning_rate

CHECKPOINT = RUNS / "transformer.safetensors"
NO_CAPTION = 0.10
"""Share of samples whose prompt is empty."""

Latents = dict[str, tuple[Tensor, list[Scene]]]
"""By size ("small", "large"): latents (N, 2, 16, h, w) and their scenes."""


def velocity(
    model: FluxTransformer2DModel, grid: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor, guidance: Tensor
) -> Tensor:
    """The model's velocity (B, h, w, 64) for noisy tokens `grid` (B, h, w, 64) at noise levels `sigma` (B,) in (0, 1].

    The grid is padded by one copied column on each side, with copied ids, and the prediction is cropped.
    `words` (B, S, D) and `pooled` (B, D) are text features, `guidance` (B,) the guidance scale.
    """
    b, h, w, _ = grid.shape
    out = model(
        hidden_states=pad(grid).reshape(b, h * (w + 2), -1),
        encoder_hidden_states=words,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=guidance,
        img_ids=position_ids(h, w, grid.device),
        txt_ids=torch.zeros(words.shape[1], 3, device=grid.device),
        return_dict=False,
    )[0]
    return out.reshape(b, h, w + 2, -1)[:, :, 1:-1]


class Trainer:
    """Model, moving average, optimizer; everything random in a step follows from the step's number."""

    def __init__(
        self,
        model: FluxTransformer2DModel,
        encoders: text.Text,
        latents: Latents,
        device: str = "cpu",
        worker: int = 0,
        workers: int = 1,
        border: float = 1.0,
    ) -> None:
        self.border = border
        self.worker, self.workers = worker, workers
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher: FluxTransformer2DModel | None = None
        weights = self.model.parameters()
        self.optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.encoders, self.latents, self.device = encoders.to(device), latents, device
        self.step = 0
        self.samples = 0

    def batch(self, size: str, count: int, seed: int, dropout: float = NO_CAPTION) -> tuple[Tensor, list[str]]:
        """Clean tokens (B, h, w, 64), rolled and perhaps mirrored, and captions, drawn by `seed`."""
        dice = random.Random(seed)
        latents, scenes = self.latents[size]
        rows, captions = [], []
        for _ in range(count):
            i = dice.randrange(len(scenes))
            picture = latents[i, dice.randrange(2)].float()
            rows.append(picture.roll(dice.randrange(picture.shape[-1]), -1))
            captions.append("" if dice.random() < dropout else caption(scenes[i], dice))
        return pack(torch.stack(rows)).to(self.device), captions

    def losses(self, size: str, count: int, seed: int, distil: bool) -> Tensor:
        """Mean squared error of the velocity of each sample (B,), over the real columns only.

        The first and the last column count `border` times: they alone teach that the picture is a circle.
        """
        clean, captions = self.batch(size, count, seed)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        tokens = clean.shape[1] * (clean.shape[2] + 2)
        sigma = shift_sigma(torch.randn(count, generator=generator).sigmoid(), time_shift_mu(tokens)).to(self.device)
        length = random.Random(seed).choice(text.LENGTHS)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * clean + s * noise
        target = noise - clean
        guidance = torch.ones(count, device=self.device)
        with torch.autocast(self.device, torch.bfloat16):
            with torch.no_grad():
                words, pooled = self.encoders(captions, length)
                if distil and self.teacher is not None:
                    guidance = 1 + 4 * torch.rand(count, generator=generator).to(self.device)
                    guidance[: count // 4] = 1
                    empty, empty_pooled = self.encoders([""] * count, length)
                    plain = torch.ones_like(guidance)
                    pull = velocity(self.teacher, noisy, sigma, words, pooled, plain) - velocity(
                        self.teacher, noisy, sigma, empty, empty_pooled, plain
                    )
                    target = target + (guidance - 1).view(-1, 1, 1, 1) * pull.float()
            guess = velocity(self.model, noisy, sigma, words, pooled, guidance)
        weight = torch.ones(clean.shape[2], device=self.device)
        weight[0] = weight[-1] = self.border
        squared = ((guess.float() - target) ** 2).mean((1, 3))
        return (squared * weight).sum(1) / weight.sum()

    def train_step(self, size: str, count: int, rate: float, distil: bool = False) -> float:
        """One step of AdamW and of the moving average, on `count` samples of each worker; returns this one's loss."""
        if distil and self.teacher is None:
            self.teacher = copy.deepcopy(self.average)
        set_learning_rate(self.optimizer, rate)
        loss = self.losses(size, count, self.step * self.workers + self.worker, distil).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.workers > 1:
            self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += count * self.workers
        decay = min(0.999, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(loss.detach())

    def _average_gradients(self) -> None:
        """The mean of all workers' gradients, as one message."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        pieces = flat.div_(self.workers).split([g.numel() for g in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def save(self, path: Path, notes: dict) -> None:
        """Writes everything that `restore` needs."""
        parts: dict[str, nn.Module | dict[str, Tensor]] = {"model": self.model, "average": self.average}
        if self.teacher is not None:
            parts["teacher"] = self.teacher
        tensors = checkpoint.pack(**parts, optimizer=checkpoint.optimizer_tensors(self.optimizer))
        config = self.model.config
        shape = [config.num_layers, config.num_single_layers, config.num_attention_heads]
        checkpoint.save(path, tensors, {**notes, "step": self.step, "samples": self.samples, "shape": shape})

    def restore(self, path: Path) -> dict:
        """Reads a checkpoint; training goes on as if it had never stopped. Returns the notes."""
        tensors, notes = checkpoint.load(path)
        self.model.load_state_dict(checkpoint.unpack(tensors, "model"))
        self.average.load_state_dict(checkpoint.unpack(tensors, "average"))
        teacher = checkpoint.unpack(tensors, "teacher")
        if teacher:
            self.teacher = copy.deepcopy(self.average)
            self.teacher.load_state_dict(teacher)
        checkpoint.restore_optimizer(self.optimizer, checkpoint.unpack(tensors, "optimizer"))
        self.step, self.samples = notes["step"], notes["samples"]
        return notes


def load(path: Path = CHECKPOINT) -> FluxTransformer2DModel:
    """The moving average of a checkpoint, in float32."""
    tensors, notes = checkpoint.load(path)
    model = build_transformer(*notes["shape"])
    model.load_state_dict(checkpoint.unpack(tensors, "average"))
    return model.eval()


def size_of(share: float, step: int, have_large: bool, large_from: float) -> str:
    """Which size a step trains: small pictures mostly, and from the share `large_from` of the budget on large ones."""
    if not have_large:
        return "small"
    if share < large_from:
        return "large" if step % 8 == 7 else "small"
    return "large" if step % 4 != 0 else "small"


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    minutes: float
    distil_from: float
    large_from: float
    batch: int
    peak: float
    border: float
    shape: tuple[int, int, int]
    workers: int
    threads: int
    device: str
    state: Path


def work(worker: int, plan: Plan, meeting: str) -> None:
    """One worker's training loop; worker 0 keeps the time for all, reports and saves."""
    torch.set_num_threads(plan.threads)
    torch.manual_seed(2)
    if plan.workers > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=worker, world_size=plan.workers)
    latents: Latents = {size: read(size) for size in SIZES if list(LATENTS.glob(f"part-*-{size}.safetensors"))}
    network = build_transformer(*plan.shape)
    trainer = Trainer(network, text.load(), latents, plan.device, worker, plan.workers, plan.border)
    notes = trainer.restore(plan.state) if plan.state.exists() else {}
    clock = Clock(plan.minutes, notes.get("spent", 0.0))
    saved = clock.spent
    recent: dict[str, list[float]] = {size: [] for size in latents}
    while (share := _agreed(clock.share, plan.workers)) < 1:
        size = size_of(share, trainer.step, "large" in latents, plan.large_from)
        count = max(1, (plan.batch if size == "small" else plan.batch // 4) // plan.workers)
        rate = learning_rate(share, plan.peak, trainer.step, warmup=200, floor=0.04)
        recent[size].append(trainer.train_step(size, count, rate, distil=share >= plan.distil_from))
        if worker:
            continue
        if trainer.step % 100 == 0:
            means = " ".join(f"{name} {sum(v) / len(v):.4f}" for name, v in recent.items() if v)
            stage = "distilling" if trainer.teacher else "training"
            print(f"{stage} step {trainer.step} seconds {clock.spent:.0f} samples {trainer.samples} rate {rate:.2e} "
                  f"loss {means}", flush=True)  # fmt: skip
            recent = {size: [] for size in latents}
        if clock.spent - saved > 120:
            saved = clock.spent
            trainer.save(plan.state, {"spent": saved, "share": share})
    if worker == 0:
        trainer.save(plan.state, {"spent": clock.spent, "share": clock.share})
        print("done", flush=True)


def _agreed(share: float, workers: int) -> float:
    """Worker 0's share of the budget, so that all workers take the same decisions."""
    if workers == 1:
        return share
    message = torch.tensor([share], dtype=torch.float64)
    dist.broadcast(message, 0)
    return float(message)


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the whole stage.")] = 80,
    distil_from: Annotated[float, typer.Option(help="Share of the budget after which guidance is distilled.")] = 0.84,
    large_from: Annotated[float, typer.Option(help="Share of the budget after which most steps train 256x512.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Samples a step at 128x256; a quarter of it at 256x512.")] = 16,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    border: Annotated[float, typer.Option(help="Weight of the first and the last column in the loss.")] = 1.0,
    double: Annotated[int, typer.Option(help="Double blocks.")] = 2,
    single: Annotated[int, typer.Option(help="Single blocks.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads of 32 channels.")] = 6,
    workers: Annotated[int, typer.Option(help="Processes that share every batch.")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads of each worker.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    state: Annotated[Path, typer.Option(help="Checkpoint to go on from and to write.")] = CHECKPOINT,
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint."""
    shape = double, single, heads
    plan = Plan(minutes, distil_from, large_from, batch, peak, border, shape, workers, threads, device, state)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that stopping this process stops its workers
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (plan, f"file://{folder}/meeting"), nprocs=workers, daemon=True)


if __name__ == "__main__":
    typer.run(main)
