# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Makes the autoencoder: 8x8 pixels to one latent of 32 channels, and back, wrapping in longitude.

The encoder is computed (`linear_encoder`) and stays; the decoder starts from a linear one (`linear_decoder`) and is
trained. `python -m training.autoencoder --prepare` does the first part only, which is all that the transformer's
training waits for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from torch import Tensor

from training import checkpoint, linear_decoder, linear_encoder
from training.data import RUNS, decibels, read_parts, to_float
from training.device import autocast, training_dtype
from training.schedule import Clock, learning_rate, set_learning_rate
from training.wrapping import wrap_longitude

CHECKPOINT = RUNS / "autoencoder.safetensors"


def build(channels: tuple[int, ...] = (24, 48, 64, 96), latents: int = linear_encoder.LATENTS) -> AutoencoderKL:
    """An untrained autoencoder with FLUX's layout, wrapping in longitude."""
    kind = "DownEncoderBlock2D", "UpDecoderBlock2D"
    vae = AutoencoderKL(
        down_block_types=(kind[0],) * 4,
        up_block_types=(kind[1],) * 4,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=4,
        sample_size=256,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )
    wrap_longitude(vae)
    return vae


WINDOW = 32
"""Side in pixels of the windows whose spectra are compared."""


def magnitudes(pictures: Tensor) -> Tensor:
    """Spectra (N, C, WINDOW, WINDOW / 2 + 1) of overlapping windows of pictures (B, C, H, W); columns wrap.

    Their magnitudes tell how much detail there is at every scale, wherever it lies.
    """
    half = WINDOW // 2
    wrapped = torch.cat((pictures, pictures[..., :half]), dim=-1)
    tiles = wrapped.unfold(-2, WINDOW, half).unfold(-2, WINDOW, half)
    window = torch.hann_window(WINDOW, device=pictures.device)
    tiles = tiles.movedim(1, 3).flatten(0, 2) * (window[:, None] * window)
    return torch.fft.rfft2(tiles, norm="ortho").abs()


def loss_of(vae: AutoencoderKL, pictures: Tensor, jitter: float = 0.04, texture: float = 2.0) -> tuple[Tensor, Tensor]:
    """Training loss of the decoder and mean squared error for `pictures` (B, 3, H, W) in [-1, 1].

    Absolute error at three scales, absolute error of both gradients (the horizontal one wraps) and a little squared
    error; `texture` times the error of the roots of local spectra's magnitudes, as what cannot be told exactly would be
    blurred else (roots, so that faint detail counts). The latents get noise of standard deviation `jitter`, because
    sampled latents are not exact either.
    """
    with torch.no_grad(), torch.autocast(pictures.device.type, enabled=False):
        kernel, bias = (weight.to(pictures.device) for weight in linear_encoder.as_convolution(vae))
        latents = F.conv2d(pictures, kernel, bias, stride=8)
        latents = latents + jitter * torch.randn_like(latents)
    decoded = vae.decode(latents).sample.float()
    error = decoded - pictures
    squared = (error**2).mean()
    loss = error.abs().mean() + squared
    loss = loss + 0.5 * (error - error.roll(1, -1)).abs().mean() + 0.5 * error.diff(dim=-2).abs().mean()
    small = error
    for _ in range(2):
        small = F.avg_pool2d(small, 2)
        loss = loss + 0.5 * small.abs().mean()
    if texture:
        with torch.autocast(pictures.device.type, enabled=False):
            made, wanted = ((magnitudes(x) + 1e-4).sqrt() for x in (decoded, pictures))
            loss = loss + texture * (made - wanted).abs().mean()
    return loss, squared.detach()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture (B, 3, H, W) in [-1, 1] after encoding and decoding."""
    decoded = torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in pictures.split(4)])
    return decibels(decoded.clamp(-1, 1), pictures)


def load(path: Path = CHECKPOINT) -> AutoencoderKL:
    """The trained autoencoder, in float32, with its measured `shift_factor` and `scaling_factor` set."""
    tensors, notes = checkpoint.load(path)
    weights = checkpoint.unpack(tensors, "average")
    channels = [weights[f"encoder.down_blocks.{level}.resnets.0.conv2.weight"].shape[0] for level in range(4)]
    vae = build(tuple(channels), weights["decoder.conv_in.weight"].shape[1])
    vae.load_state_dict(weights)
    vae.register_to_config(shift_factor=notes["shift"], scaling_factor=notes["scale"])
    return vae.eval()


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, pictures: Tensor) -> tuple[float, float]:
    """Mean, and 1 / standard deviation, of the latents of `pictures` (B, 3, H, W) in [-1, 1]."""
    latents = torch.cat([vae.encode(p).latent_dist.mode() for p in pictures.split(8)])
    return float(latents.mean()), float(1 / latents.std())


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget of the decoder.")] = 15,
    prepare: Annotated[bool, typer.Option(help="Only compute the starting weights.")] = False,
    batch: Annotated[int, typer.Option(help="Pictures a step at 128x256; a quarter of it at 256x512.")] = 4,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-4,
    jitter: Annotated[float, typer.Option(help="Greatest standard deviation of the noise on latents.")] = 0.06,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint, then measures PSNR and latent statistics."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if not CHECKPOINT.exists():
        pictures, _ = read_parts(limit=3)
        fresh = linear_encoder.initialize(build(), [to_float(pictures[::3], 128), to_float(pictures[::15])])
        linear_decoder.initialize(fresh, [to_float(pictures[::8], 128), to_float(pictures[::30])])
        linear_decoder.refine(fresh, pictures)
        shift, scale = latent_statistics(fresh, to_float(pictures[::10], 128))
        _save(fresh, fresh, None, {"step": 0, "spent": 0.0, "shift": shift, "scale": scale})
    if prepare:
        return
    vae, average = build().to(device), build().to(device)
    vae.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=1e-4)
    tensors, notes = checkpoint.load(CHECKPOINT)
    vae.load_state_dict(checkpoint.unpack(tensors, "model"))
    average.load_state_dict(checkpoint.unpack(tensors, "average"))
    checkpoint.restore_optimizer(optimizer, checkpoint.unpack(tensors, "optimizer"))
    step, spent = notes["step"], notes["spent"]
    pictures, _ = read_parts()
    held, _ = read_parts(kind="held")
    held = held[:: max(1, len(held) // 24)][:24]
    clock = Clock(minutes, spent)
    parts_read, saved = len(pictures), clock.spent
    running = 0.0
    dtype = training_dtype(device)
    while clock.share < 1:
        if step % 200 == 199:
            more, _ = read_parts(known=parts_read // 100)
            pictures, parts_read = torch.cat((pictures, more)), parts_read + len(more)
        large = step % 4 != 3
        chosen = torch.randint(len(pictures), (max(1, batch // 4) if large else batch,))
        x = to_float(pictures[chosen].to(device), 256 if large else 128)
        x = x.roll(int(torch.randint(x.shape[-1], ())), -1)
        if step % 2:
            x = x.flip(-1)
        set_learning_rate(optimizer, learning_rate(clock.share, peak, step))
        with autocast(device, dtype):
            # From none to much: exact latents must stay sharp, sampled ones must not show their grid.
            strength = jitter * float(torch.rand(()))
            loss, squared = loss_of(vae, x.contiguous(memory_format=torch.channels_last), strength)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.995, step / (step + 20))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), vae.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        running = 0.98 * running + 0.02 * float(squared) if step > 1 else float(squared)
        if step % 100 == 0:
            noise_db = -10 * torch.tensor(running / 4).log10().item()
            print(f"step {step} seconds {clock.spent:.0f} psnr {noise_db:.2f} dB pictures {len(pictures)}", flush=True)
        if clock.spent - saved > 120:
            saved = clock.spent
            _save(vae, average, optimizer, {**notes, "step": step, "spent": saved})
    average.eval()
    small, large_db = psnr(average, to_float(held.to(device), 128)), psnr(average, to_float(held.to(device)))
    notes |= {"step": step, "spent": clock.spent}
    notes |= {"psnr_128": float(small.mean()), "psnr_256": float(large_db.mean())}
    _save(vae, average, optimizer, notes)
    print(notes, flush=True)


def _save(vae: AutoencoderKL, average: AutoencoderKL, optimizer: torch.optim.Optimizer | None, notes: dict) -> None:
    moments = checkpoint.optimizer_tensors(optimizer) if optimizer else {}
    checkpoint.save(CHECKPOINT, checkpoint.pack(model=vae, average=average, optimizer=moments), notes)


if __name__ == "__main__":
    typer.run(main)
