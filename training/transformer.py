"""Trains the transformer by flow matching on padded latents, DiT360's way, then distils guidance into its input."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from training import checkpoint, text
from training.captions import caption
from training.data import RUNS
from training.flux_parts import build_transformer, pack, pad, position_ids, shift_sigma, time_shift_mu
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
        self, model: FluxTransformer2DModel, encoders: text.Text, latents: Latents, device: str = "cpu"
    ) -> None:
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher: FluxTransformer2DModel | None = None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
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
        """Mean squared error of the velocity of each sample (B,), over the real columns only."""
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
        return ((guess.float() - target) ** 2).flatten(1).mean(1)

    def train_step(self, size: str, count: int, rate: float, distil: bool = False) -> float:
        """One step of AdamW and of the moving average; returns the loss."""
        if distil and self.teacher is None:
            self.teacher = copy.deepcopy(self.average)
        set_learning_rate(self.optimizer, rate)
        loss = self.losses(size, count, self.step, distil).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += count
        decay = min(0.999, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(loss.detach())

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


def size_of(share: float, step: int, have_large: bool) -> str:
    """Which size a step trains: small pictures first, then more and more large ones."""
    if not have_large:
        return "small"
    every = 8 if share < 0.30 else 4 if share < 0.5 else 2
    return "large" if (step % every == every - 1) or (share > 0.72 and step % 4 != 0) else "small"


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the whole stage.")] = 80,
    distil_from: Annotated[float, typer.Option(help="Share of the budget after which guidance is distilled.")] = 0.84,
    batch: Annotated[int, typer.Option(help="Samples a step at 128x256; a quarter of it at 256x512.")] = 16,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    double: Annotated[int, typer.Option(help="Double blocks.")] = 2,
    single: Annotated[int, typer.Option(help="Single blocks.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads of 32 channels.")] = 6,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint."""
    from training.latents import LATENTS, read

    torch.set_num_threads(threads)
    torch.manual_seed(2)
    latents: Latents = {"small": read("small")}
    seen = -1
    trainer = Trainer(build_transformer(double, single, heads), text.load(), latents, device)
    notes = trainer.restore(CHECKPOINT) if CHECKPOINT.exists() else {}
    clock = Clock(minutes, notes.get("spent", 0.0))
    saved = clock.spent
    recent: dict[str, list[float]] = {"small": [], "large": []}
    while clock.share < 1:
        if trainer.step % 250 == 0:
            ready = len(list(LATENTS.glob("part-*.safetensors")))
            if ready != seen:
                latents["small"] = read("small")
                if list(LATENTS.glob("part-*-large.safetensors")):
                    latents["large"] = read("large")
                seen = ready
        size = size_of(clock.share, trainer.step, "large" in latents)
        count = batch if size == "small" else batch // 4
        rate = learning_rate(clock.share, peak, trainer.step, warmup=200, floor=0.04)
        recent[size].append(trainer.train_step(size, count, rate, distil=clock.share >= distil_from))
        if trainer.step % 100 == 0:
            means = " ".join(f"{name} {sum(v) / len(v):.4f}" for name, v in recent.items() if v)
            stage = "distilling" if trainer.teacher else "training"
            print(f"{stage} step {trainer.step} seconds {clock.spent:.0f} samples {trainer.samples} rate {rate:.2e} "
                  f"loss {means}", flush=True)  # fmt: skip
            recent = {"small": [], "large": []}
        if clock.spent - saved > 120:
            saved = clock.spent
            trainer.save(CHECKPOINT, {"spent": saved, "share": clock.share})
    trainer.save(CHECKPOINT, {"spent": clock.spent, "share": clock.share})
    print("done", flush=True)


if __name__ == "__main__":
    typer.run(main)
