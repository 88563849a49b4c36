# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""One step of training: flow matching on padded latents, DiT360's losses, guidance distilled into its input."""

from __future__ import annotations

import copy
import random
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import FluxTransformer2DModel
from dit360_core.models.flux.processor import AttentionProcessor
from torch import Tensor, nn

from training import checkpoint, losses, text
from training.captions import caption
from training.data import KINDS
from training.device import autocast, training_dtype
from training.flux_parts import (
    NATIVE_ROWS,
    pack,
    pad,
    position_ids,
    shift_sigma,
    time_shift_mu,
    unpack,
    window_ids,
)
from training.scenes import Scene
from training.schedule import set_learning_rate

NO_CAPTION = 0.10
"""Share of samples whose prompt is empty."""

OFTEN = {"room": 2.5, "city": 1.5, "castle": 2.5}
"""How often a kind or a landmark is drawn, where others are drawn once: straight lines take longest to learn."""

MOST_OF_WINDOWS = 0.75
"""Highest noise level at which windows over larger pictures are trained; `dit360 upscale` begins at about 0.55."""

Latents = dict[str, tuple[Tensor, list[Scene]]]
"""By size ("small", "large", "double", "fourfold"): latents (N, 2, C, h, w) and their scenes."""


@dataclass(frozen=True)
class Recipe:
    """Which of DiT360's means are used. padding: copied token columns on either side. The losses are weights, 0 is off.

    yaw: the loss as published. equivariance: the model compared with itself at another yaw (a second evaluation).
    cube: the error on the faces of a cube.
    importance: exponent at σ = 1 of how much a latent changes a picture, by which its errors count; 0: all count alike.
    It falls with σ: what is decided first is what changes a picture most, what is decided last is detail.
    joints: steps of the error where tokens meet.
    """

    padding: int = 1
    yaw: float = 0.0
    equivariance: float = 0.0
    cube: float = 0.0
    importance: float = 0.0
    joints: float = 0.0


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Attention in the dtype of autocast, all (B, S, H, D), with the scores in memory.

    On a CPU with bfloat16 products this trains 1.4 times as fast as PyTorch's fused kernel, whose backward pass is
    slow there, and its gradients are as good (0.6 % against 0.4 % relative error).
    """
    q, k, v = (x.transpose(1, 2) for x in (q * scale, k, v))
    return ((q @ k.transpose(-1, -2)).softmax(-1, dtype=q.dtype) @ v).transpose(1, 2)


def velocity(
    model: FluxTransformer2DModel,
    grid: Tensor,
    sigma: Tensor,
    words: Tensor,
    pooled: Tensor,
    guidance: Tensor,
    padding: int = 1,
    ids: Tensor | None = None,
) -> Tensor:
    """The model's velocity (B, h, w, 4·C) for noisy tokens `grid` (B, h, w, 4·C) at noise levels `sigma` (B,) above 0.

    The grid is padded by copied columns on each side, with copied ids, and the prediction is cropped. A window, which
    goes around nowhere, brings `ids` (h·w, 3) of its own and is not padded.
    `words` (B, S, D) and `pooled` (B, D) are text features, `guidance` (B,) the guidance scale.
    """
    b, h, w, _ = grid.shape
    padding = padding if ids is None else 0
    out = model(
        hidden_states=pad(grid, padding).reshape(b, h * (w + 2 * padding), -1),
        encoder_hidden_states=words,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=guidance,
        img_ids=position_ids(h, w, grid.device, padding) if ids is None else ids,
        txt_ids=torch.zeros(words.shape[1], 3, device=grid.device),
        return_dict=False,
    )[0]
    return out.reshape(b, h, w + 2 * padding, -1)[:, :, padding : padding + w]


def often(scene: Scene) -> float:
    """How often a scene is drawn, where one of the easiest is drawn once."""
    return OFTEN.get(scene.kind if scene.kind == "room" else scene.landmark, 1.0)


def counted(gains: Tensor, importance: Tensor) -> Tensor:
    """What the error of each number of a token is multiplied by (B, 4·C); the mean of a row's squares is 1.

    gains: how much each latent (C,) changes a picture. importance: exponents (B,), 0 to 1.
    """
    weights = gains ** importance.unsqueeze(1)
    return (weights / weights.mean(1, keepdim=True)).sqrt().repeat_interleave(4, 1)


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
        recipe: Recipe | None = None,
        gains: Tensor | None = None,
    ) -> None:
        """gains: how much each latent (C,) changes a picture; needed where the recipe's importance is above 0."""
        self.recipe = recipe or Recipe()
        if self.recipe.importance and gains is None:
            raise ValueError("importance counts latents by their gains, and none are given")
        self.gains = torch.ones(model.config.in_channels // 4) if gains is None else gains
        self.gains = self.gains.to(device)
        self.worker, self.workers = worker, workers
        self.model = model.to(device)
        if device == "cpu":
            self.model.set_attn_processor(AttentionProcessor(attend))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher: FluxTransformer2DModel | None = None
        weights = self.model.parameters()
        self.optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.encoders, self.latents, self.device = encoders.to(device), latents, device
        self.often = {size: list(accumulate(often(scene) for scene in scenes)) for size, (_, scenes) in latents.items()}
        self.dtype = training_dtype(device)
        self.step = 0
        self.samples = 0
        self.compiled = False

    def compile(self) -> None:
        """Compiles the blocks that are trained, once for each size and prompt length, a minute of a core each.

        On two AVX-512 cores it trains 1.3 times as fast (see README): half of a step is work on single numbers, which
        the compiler does in one pass.
        """
        self.compiled = True
        torch._dynamo.config.recompile_limit = 64  # sizes, lengths of prompts, strides of the first input
        _compile_blocks(self.model)
        if self.teacher is not None:
            _compile_blocks(self.teacher)

    def batch(self, size: str, count: int, seed: int, dropout: float = NO_CAPTION) -> tuple[Tensor, list[str]]:
        """Clean tokens (B, h, w, 4·C), rolled and perhaps mirrored, and captions, drawn by `seed`.

        Of larger pictures, a window of the native size.
        """
        dice = random.Random(seed)
        latents, scenes = self.latents[size]
        window = self.window(size, seed)
        rows, captions = [], []
        for _ in range(count):
            (i,) = dice.choices(range(len(scenes)), cum_weights=self.often[size])
            picture = latents[i, dice.randrange(2)]
            picture = picture.roll(dice.randrange(picture.shape[-1]), -1)
            if window is not None:  # whose column is any, since the picture is turned by any angle
                top = 2 * window[0]
                picture = picture[:, top : top + 2 * NATIVE_ROWS, : 4 * NATIVE_ROWS]
            rows.append(picture.float())
            captions.append("" if dice.random() < dropout else caption(scenes[i], dice))
        return pack(torch.stack(rows)).to(self.device), captions

    def window(self, size: str, seed: int) -> tuple[int, int] | None:
        """Where the window over larger pictures lies in the step of `seed`: (top row, left column) in tokens."""
        if size not in KINDS:
            return None
        zoom, dice = KINDS[size].zoom, random.Random(f"window {seed}")
        return dice.randint(0, NATIVE_ROWS * (zoom - 1)), dice.randrange(2 * NATIVE_ROWS * zoom)

    def losses(self, size: str, count: int, seed: int, distil: bool) -> dict[str, Tensor]:
        """The losses of each sample (B,), over the real columns only: `plain`, and those that the recipe asks for.

        `counted` is the plain one with errors counted by what they change in a picture, and is trained in its place.
        """
        clean, captions = self.batch(size, count, seed)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        padding = self.recipe.padding
        tokens = clean.shape[1] * (clean.shape[2] + 2 * padding)
        window = self.window(size, seed)
        ids = None if window is None else window_ids(KINDS[size].zoom, window, self.device)
        sigma = self.sigmas(count, tokens, generator)
        # Larger pictures begin with smaller ones, of which so much is left.
        sigma = (sigma if window is None else MOST_OF_WINDOWS * sigma).to(self.device)
        length = random.Random(seed).choice(text.LENGTHS)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * clean + s * noise
        target = noise - clean
        guidance = torch.ones(count, device=self.device)
        with autocast(self.device, self.dtype):
            with torch.no_grad():
                words, pooled = self.encoders(captions, length)
                if distil and self.teacher is not None:
                    guidance = 1 + 4 * torch.rand(count, generator=generator).to(self.device)
                    guidance[: count // 4] = 1
                    target = target + (guidance - 1).view(-1, 1, 1, 1) * self._pull(noisy, sigma, words, pooled, ids)
            guess = velocity(self.model, noisy, sigma, words, pooled, guidance, padding, ids).float()
            error = guess - target
            found = {"plain": (error**2).mean((1, 2, 3))}
            counts = counted(self.gains, self.recipe.importance * sigma)[:, None, None]
            error = error * counts
            if self.recipe.importance:
                found["counted"] = (error**2).mean((1, 2, 3))
            dice = random.Random(seed)
            if self.recipe.equivariance and window is None:
                columns = dice.randrange(1, 2 * clean.shape[2])
                turned = pack(unpack(noisy).roll(-columns, -1))
                other = velocity(self.model, turned, sigma, words, pooled, guidance, padding).float()
                here, there = unpack(guess * counts), unpack(other * counts)
                found["equivariance"] = losses.equivariance(here, there.roll(columns, -1))
        error = unpack(error)
        if self.recipe.yaw and window is None:
            found["yaw"] = losses.published_yaw(error, dice.choice(losses.YAWS))
        if self.recipe.joints:
            found["joints"] = losses.joints(error, around=window is None)
        if self.recipe.cube and window is None:
            found["cube"] = losses.cube(error)
        return found

    @staticmethod
    def sigmas(count: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Noise levels (count,): 45 % of 0.5 to 1, 30 % FLUX's shifted logit-normal, a quarter fine ones, below 0.3.

        Composition and structure are decided above 0.5, light and colours above 0.9, where the logit-normal at this
        number of tokens has 5 % of its mass; the texture is made below 0.1, where it has little too.
        """
        usual = shift_sigma(torch.randn(count, generator=generator).sigmoid(), time_shift_mu(tokens))
        early = 1 - 0.5 * torch.rand(count, generator=generator) ** 1.4
        fine = 0.002 + 0.298 * torch.rand(count, generator=generator) ** 1.5
        which = torch.rand(count, generator=generator)
        return torch.where(which < 0.45, early, torch.where(which < 0.75, usual, fine))

    def _pull(self, noisy: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor, ids: Tensor | None) -> Tensor:
        """What a caption changes in the teacher's velocity (B, h, w, 4·C): guidance w adds it w − 1 times."""
        count, length, _ = words.shape
        empty, empty_pooled = self.encoders([""], length)
        empty, empty_pooled = empty.expand(count, -1, -1), empty_pooled.expand(count, -1)
        plain = torch.ones_like(sigma)
        padding = self.recipe.padding
        told = velocity(self.teacher, noisy, sigma, words, pooled, plain, padding, ids)
        untold = velocity(self.teacher, noisy, sigma, empty, empty_pooled, plain, padding, ids)
        return (told - untold).float()

    def train_step(self, size: str, count: int, rate: float, distil: bool = False) -> float:
        """One step of AdamW and of the moving average, on `count` samples of each worker; returns the plain loss."""
        if distil and self.teacher is None:
            self.teacher = copy.deepcopy(self.average)
            if self.compiled:
                _compile_blocks(self.teacher)
        set_learning_rate(self.optimizer, rate)
        found = self.losses(size, count, self.step * self.workers + self.worker, distil)
        weights = {"plain": float("counted" not in found), "counted": 1.0, **asdict(self.recipe)}
        total = torch.stack([weights[name] * values.mean() for name, values in found.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.workers > 1:
            self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.samples += count * self.workers
        # What guidance does is learned anew, in fewer steps than the average of before would take to forget.
        decay = min(0.999 if self.teacher is None else 0.996, (self.step + 1) / (self.step + 20))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(found["plain"].mean().detach())

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
        own = {"step": self.step, "samples": self.samples, "shape": shape, "recipe": asdict(self.recipe)}
        checkpoint.save(path, tensors, {**notes, **own})

    def restore(self, path: Path) -> dict:
        """Reads a checkpoint; training goes on as if it had never stopped. Returns the notes."""
        tensors, notes = checkpoint.load(path)
        self.model.load_state_dict(checkpoint.unpack(tensors, "model"))
        self.average.load_state_dict(checkpoint.unpack(tensors, "average"))
        teacher = checkpoint.unpack(tensors, "teacher")
        if teacher:
            self.teacher = copy.deepcopy(self.average)
            self.teacher.load_state_dict(teacher)
        moments = checkpoint.unpack(tensors, "optimizer")
        if moments:
            checkpoint.restore_optimizer(self.optimizer, moments)
        self.step, self.samples = notes["step"], notes["samples"]
        return notes


def _compile_blocks(model: FluxTransformer2DModel) -> None:
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        block.compile(dynamic=False)
