"""A classifier that tells from a picture what a caption could have said; it judges how well prompts are obeyed.

It is trained on renders only, never on generated pictures, and knows nothing of the model that it judges. It sees a
picture at 128x256, blurred, noisy and shifted in colour by chance, so that it goes by what is there and not by the
renderer's crisp edges. `python -m training.judge` trains it and tells how often it is right about renders that it never
saw.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from training import checkpoint
from training.data import DATA, HELD_OUT_SEED, RUNS, read_parts, to_float
from training.device import autocast, training_dtype
from training.scenes import ATTRIBUTES, Scene
from training.schedule import Clock, learning_rate, set_learning_rate
from training.wrapping import CircularConv2d

CHECKPOINT = RUNS / "judge.safetensors"
WEIGHTS = Path(__file__).with_name("judge.safetensors")
"""The trained judge, kept with the code so that a model can be judged without rendering and training first."""
HEIGHT = 128
JUDGED = ("kind", "time", "ground", "landmark")


class Judge(nn.Module):
    """Pictures (B, 3, 128, 256) in [-1, 1] to scores (B, values) of every judged attribute.

    Convolutions wrap in longitude; columns are averaged and their greatest kept, rows are not, because the sky is
    above and the ground below.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 3 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise(channels)):
            layers += [
                CircularConv2d(a, b, 3, stride=2 if number < 4 else 1, padding=1),
                nn.GroupNorm(4, b),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers)
        rows = HEIGHT // 16
        self.mixed = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * rows * channels[-1], 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(ATTRIBUTES[name])) for name in JUDGED})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.layers(pictures)
        mixed = self.mixed(torch.stack((features.mean(-1), features.amax(-1)), dim=1))
        return {name: head(mixed) for name, head in self.heads.items()}


def targets(scenes: list[Scene], name: str) -> Tensor:
    """The number of each scene's value of an attribute, -100 (ignored by cross entropy) where it is not shown."""
    values = ATTRIBUTES[name]
    return torch.tensor([values.index(getattr(s, name)) if name in s.relevant() else -100 for s in scenes])


def disturb(pictures: Tensor) -> Tensor:
    """Turned, mirrored, blurred, shifted in colour, noisy: each by chance, the same kind for the whole batch."""
    pictures = pictures.roll(int(torch.randint(pictures.shape[-1], ())), -1)
    if torch.rand(()) < 0.5:
        pictures = pictures.flip(-1)
    blur = int(torch.randint(3, ()))
    if blur:
        small = F.avg_pool2d(pictures, 2**blur)
        pictures = F.interpolate(small, scale_factor=2**blur, mode="bilinear", align_corners=False)
    gain = 1 + 0.05 * torch.randn(len(pictures), 3, 1, 1)
    shift = 0.04 * torch.randn(len(pictures), 3, 1, 1)
    return pictures * gain + shift + 0.08 * torch.rand(()) * torch.randn_like(pictures)


def small(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, 2H) in [-1, 1] of any size, as the judge wants them."""
    return F.interpolate(pictures, (HEIGHT, 2 * HEIGHT), mode="area")


@torch.no_grad()
def verdicts(judge: Judge, pictures: Tensor) -> list[dict[str, str]]:
    """The most likely value of every judged attribute, for pictures (N, 3, H, 2H) in [-1, 1]."""
    found: list[dict[str, str]] = []
    for part in pictures.split(50):
        scores = judge(small(part))
        best = {name: scores[name].argmax(-1).tolist() for name in JUDGED}
        found += [{name: ATTRIBUTES[name][best[name][i]] for name in JUDGED} for i in range(len(part))]
    return found


def accuracy(judge: Judge, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of right verdicts on each attribute, over the scenes that show it."""
    found = verdicts(judge, pictures)
    right: dict[str, list[bool]] = {name: [] for name in JUDGED}
    for scene, verdict in zip(scenes, found, strict=True):
        for name in JUDGED:
            if name in scene.relevant():
                right[name].append(verdict[name] == getattr(scene, name))
    return {name: sum(values) / len(values) for name, values in right.items()}


def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge, in float32."""
    judge = Judge()
    judge.load_state_dict(checkpoint.unpack(checkpoint.load(path)[0], "model"))
    return judge.eval()


def _renders(kind: str) -> tuple[Tensor, list[Scene]]:
    """Renders at the judge's size, as bytes (N, 3, 128, 256), and their scenes; read a part at a time."""
    rows: list[Tensor] = []
    scenes: list[Scene] = []
    for number in range(len(list(DATA.glob(f"{kind}-*.npy")))):
        pictures, found = read_parts(kind=kind, known=number, limit=number + 1)
        rows.append(((to_float(pictures, HEIGHT) + 1) * 127.5).round().to(torch.uint8))
        scenes += found
    return torch.cat(rows), scenes


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget.")] = 8,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 32,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint, measures on unseen renders, writes the weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(3)
    pictures, scenes = _renders("part")
    wanted = {name: targets(scenes, name) for name in JUDGED}
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=peak, weight_decay=0.02)
    step, spent = 0, 0.0
    if CHECKPOINT.exists():
        tensors, notes = checkpoint.load(CHECKPOINT)
        judge.load_state_dict(checkpoint.unpack(tensors, "model"))
        checkpoint.restore_optimizer(optimizer, checkpoint.unpack(tensors, "optimizer"))
        step, spent = notes["step"], notes["spent"]
    clock, dtype = Clock(minutes, spent), training_dtype("cpu")
    saved = clock.spent

    def save(notes: dict[str, object]) -> None:
        tensors = checkpoint.pack(model=judge, optimizer=checkpoint.optimizer_tensors(optimizer))
        checkpoint.save(CHECKPOINT, tensors, {"step": step, "spent": clock.spent, **notes})

    while clock.share < 1:
        chosen = torch.randint(len(scenes), (batch,))
        shown = disturb(pictures[chosen].float() / 127.5 - 1)
        set_learning_rate(optimizer, learning_rate(clock.share, peak, step))
        with autocast("cpu", dtype):
            scores = judge(shown.contiguous(memory_format=torch.channels_last))
        loss = torch.stack([F.cross_entropy(scores[name].float(), wanted[name][chosen]) for name in JUDGED]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{clock.share:4.0%} step {step} loss {float(loss):.3f}", flush=True)
        if clock.spent - saved > 120:
            saved = clock.spent
            save({})
    judge.eval()
    held, held_scenes = _renders("held")
    assert all(scene.seed >= HELD_OUT_SEED for scene in held_scenes)
    right = accuracy(judge, held.float() / 127.5 - 1, held_scenes)
    found = {"right": right, "renders": len(held_scenes)}
    save(found)
    checkpoint.save(WEIGHTS, checkpoint.pack(model=judge.half()), found)
    print(f"right on {len(held_scenes)} unseen renders: " + ", ".join(f"{k} {v:.1%}" for k, v in right.items()))


if __name__ == "__main__":
    typer.run(main)
