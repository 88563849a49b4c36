# diffusers and transformers do not type their models, and torch types submodules as "Tensor | Module".
# mypy: disable-error-code="attr-defined,union-attr,operator,index,arg-type,assignment,no-any-return,no-untyped-call"
"""Trains the two small text encoders to tell a scene's attributes from its caption; then they are frozen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from training import checkpoint
from training.captions import caption
from training.data import HELD_OUT_SEED, RUNS
from training.scenes import ATTRIBUTES, Scene, draw
from training.schedule import Clock, learning_rate, set_learning_rate
from training.tokenizers_of import CLIP_LENGTH, clip_tokenizer, corpus, t5_tokenizer

CHECKPOINT = RUNS / "text.safetensors"
TOKENIZERS = RUNS / "tokenizers"
LENGTHS = (32, 48, 64)
"""T5 sequence lengths that the model is trained with; FluxPipeline passes no mask, so padding is visible."""
WIDTH = 128


class Text(nn.Module):
    """Both tokenizers and both encoders, used exactly as FluxPipeline.encode_prompt uses them (no masks)."""

    def __init__(self, clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
        super().__init__()
        self.tokenizer, self.tokenizer_2 = clip, t5
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip), hidden_size=WIDTH, intermediate_size=2 * WIDTH, projection_dim=WIDTH,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CLIP_LENGTH,
                bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
            )
        )  # fmt: skip
        self.text_encoder_2 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5), d_model=WIDTH, d_kv=32, d_ff=2 * WIDTH, num_layers=3, num_heads=4,
                feed_forward_proj="gated-gelu", dropout_rate=0.0, is_encoder_decoder=False, use_cache=False,
                pad_token_id=t5.pad_token_id, eos_token_id=t5.eos_token_id,
            )
        )  # fmt: skip

    def forward(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """T5 features (B, length, WIDTH) and CLIP's pooled features (B, WIDTH) of `prompts`."""
        device = self.text_encoder.device

        def ids(tokenizer: CLIPTokenizer | T5Tokenizer, longest: int) -> Tensor:
            options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
            return tokenizer(prompts, max_length=longest, **options).input_ids.to(device)

        features = self.text_encoder_2(ids(self.tokenizer_2, length))[0]
        pooled = self.text_encoder(ids(self.tokenizer, CLIP_LENGTH)).pooler_output
        return features, pooled


def make_tokenizers(folder: Path = TOKENIZERS) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """The tokenizers, trained on captions the first time and read back afterwards."""
    if not (folder / "t5").exists():
        lines = corpus()
        clip_tokenizer(lines).save_pretrained(folder / "clip")
        t5_tokenizer(lines).save_pretrained(folder / "t5")
    return CLIPTokenizer.from_pretrained(folder / "clip"), T5Tokenizer.from_pretrained(folder / "t5")


def load(path: Path = CHECKPOINT, trained: bool = True) -> Text:
    """The frozen text encoders; with `trained=False` random ones of the same shape."""
    text = Text(*make_tokenizers())
    if trained:
        text.load_state_dict(checkpoint.unpack(checkpoint.load(path)[0], "model"))
    return text.eval().requires_grad_(False)


class Heads(nn.Module):
    """Linear classifiers for every attribute, on a feature vector."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def loss(self, features: Tensor, scenes: list[Scene]) -> tuple[Tensor, float]:
        """Cross entropy over the attributes that each scene shows, and the share guessed right."""
        total, right, count = features.new_zeros(()), 0, 0
        for name, values in ATTRIBUTES.items():
            shown = [i for i, scene in enumerate(scenes) if name in scene.relevant()]
            if not shown:
                continue
            target = torch.tensor([values.index(getattr(scenes[i], name)) for i in shown], device=features.device)
            guess = self.heads[name](features[shown])
            total = total + F.cross_entropy(guess, target)
            right, count = right + int((guess.argmax(-1) == target).sum()), count + len(shown)
        return total / len(ATTRIBUTES), right / count


def main(
    minutes: Annotated[float, typer.Option(help="Wall-clock budget.")] = 4,
    batch: Annotated[int, typer.Option(help="Captions a step.")] = 64,
    peak: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
) -> None:
    """Trains for the given minutes, or goes on from the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    text = Text(*make_tokenizers())
    nn.init.normal_(text.text_encoder_2.shared.weight, std=0.5)
    heads, pooled_heads = Heads(), Heads()
    parts = nn.ModuleList((text, heads, pooled_heads)).to(device)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=peak, weight_decay=1e-3)
    step, spent = 0, 0.0
    if CHECKPOINT.exists():
        tensors, notes = checkpoint.load(CHECKPOINT)
        if notes.get("restored"):
            raise SystemExit(f"{CHECKPOINT} was made from a shipped model, whose encoders are final; remove it first")
        text.load_state_dict(checkpoint.unpack(tensors, "model"))
        heads.load_state_dict(checkpoint.unpack(tensors, "heads"))
        pooled_heads.load_state_dict(checkpoint.unpack(tensors, "pooled_heads"))
        checkpoint.restore_optimizer(optimizer, checkpoint.unpack(tensors, "optimizer"))
        step, spent = notes["step"], notes["spent"]
    clock = Clock(minutes, spent)
    dice = random.Random(step)

    def sample(count: int, offset: int = 0) -> tuple[list[Scene], list[str]]:
        scenes = [draw(offset + dice.randrange(10**7)) for _ in range(count)]
        return scenes, [caption(scene, dice) for scene in scenes]

    def save(**notes: object) -> None:
        tensors = checkpoint.pack(
            model=text, heads=heads, pooled_heads=pooled_heads, optimizer=checkpoint.optimizer_tensors(optimizer)
        )
        checkpoint.save(CHECKPOINT, tensors, {"step": step, "spent": clock.spent, **notes})

    saved = clock.spent
    while clock.share < 1:
        scenes, captions = sample(batch)
        set_learning_rate(optimizer, learning_rate(clock.share, peak, step))
        features, pooled = text(captions, LENGTHS[step % len(LENGTHS)])
        loss, right = heads.loss(features.mean(1), scenes)
        pooled_loss, pooled_right = pooled_heads.loss(pooled, scenes)
        optimizer.zero_grad(set_to_none=True)
        (loss + pooled_loss).backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} seconds {clock.spent:.0f} loss t5 {float(loss):.3f} clip {float(pooled_loss):.3f} "
                  f"right t5 {right:.3f} clip {pooled_right:.3f}", flush=True)  # fmt: skip
        if clock.spent - saved > 60:
            saved = clock.spent
            save()
    text.eval()
    with torch.no_grad():
        scenes, captions = sample(1000, HELD_OUT_SEED)
        features, pooled = text(captions, 64)
        right, pooled_right = heads.loss(features.mean(1), scenes)[1], pooled_heads.loss(pooled, scenes)[1]
    notes = {"right_t5": right, "right_clip": pooled_right,
             "features_std": float(features.std()), "pooled_std": float(pooled.std())}  # fmt: skip
    save(**notes)
    print(notes, flush=True)


if __name__ == "__main__":
    typer.run(main)
