"""Whether a part that was given in the place of a FLUX model's own fits the others, before anything heavy is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dit360_core.errors import ModelError
from dit360_core.models.architecture import DENOISER, Given
from dit360_core.models.flux.channels import latents
from dit360_core.models.flux.folder import read_config
from dit360_core.models.flux.schemas import value_of
from dit360_core.models.weights.forms.opening import open_file
from dit360_core.models.weights.forms.renaming import prefix_of

VAE, CLIP, T5 = "vae", "text_encoder", "text_encoder_2"
_CONFIG = {CLIP: ("hidden_size", "pooled_projection_dim"), T5: ("d_model", "joint_attention_dim")}
"""What a text encoder's configuration calls the channels that it makes, and the transformer's those that it takes."""
_TABLES = {
    CLIP: ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
    T5: ("shared.weight", "encoder.embed_tokens.weight"),
}
"""Names of the table of a text encoder's tokens, whose rows are as long as what it makes."""


def check_fits(given: Sequence[Given], folder: Path) -> None:
    """Raises ModelError for a part that makes or takes other numbers than the transformer.

    folder: of the model whose parts the others are.
    """
    transformer = folder / DENOISER
    for one in given:
        # A single file is compared with the model's own configuration as a whole.
        if one.part.name == DENOISER and one.path is not None and one.path.is_dir():
            transformer = one.path
    for one in given:
        if one.path is not None and one.part.name != DENOISER:
            _check_fits(one, one.path, transformer, folder)


def _check_fits(one: Given, path: Path, transformer: Path, folder: Path) -> None:
    part = one.part.name
    if part == VAE:
        made, wanted = "latents", latents(read_config(DENOISER, transformer))
        channels = _latent_channels(one, path)
    else:
        made, wanted = "text embeddings", _number(DENOISER, transformer, _CONFIG[part][1])
        channels = _embedding_channels(one, path)
    if channels != wanted:
        raise ModelError(
            f"{path} makes {made} of {channels} channels, and this model's transformer takes {wanted}; give the "
            f"{one.part.words} of such a model."
        )
    if path.is_file():
        return
    if part == VAE:
        factor = 2 ** (len(value_of(VAE, read_config(VAE, path), "block_out_channels")) - 1)
        if factor != 8:
            raise ModelError(
                f"{path} makes latents {factor} times smaller than the picture, and FLUX's are 8 times smaller; give "
                "the autoencoder of such a model."
            )
        return
    known, needed = (_number(part, at, "vocab_size") for at in (path, folder / part))
    if known < needed:
        raise ModelError(
            f"{path} knows {known} tokens, and this model's tokenizer makes {needed}; give the {one.part.words} of "
            "such a model."
        )


def notes(given: Sequence[Given], folder: Path) -> Iterator[str]:
    """An autoencoder of another model may have as many channels, which mean something else."""
    for one in given:
        if one.part.name != VAE or one.path is None or not one.path.is_dir():
            continue
        theirs, own = (read_config(VAE, at) for at in (one.path, folder / VAE))
        other = next((key for key in ("scaling_factor", "shift_factor") if theirs.get(key) != own.get(key)), None)
        if other is not None:
            yield (
                f"{one.path} has the {other} {theirs.get(other)}, and the model's own autoencoder {own.get(other)}: "
                "if it is another model's, its latents mean something else"
            )


def _latent_channels(one: Given, path: Path) -> int | None:
    if path.is_dir():
        return _number(VAE, path, "latent_channels")
    tensors = open_file(path).tensors
    first = tensors.get(f"{prefix_of(one.part, tensors)}decoder.conv_in.weight")
    return first.shape[1] if first is not None and len(first.shape) > 1 else None


def _embedding_channels(one: Given, path: Path) -> int | None:
    if path.is_dir():
        return _number(one.part.name, path, _CONFIG[one.part.name][0])
    tensors = open_file(path).tensors
    prefix = prefix_of(one.part, tensors)
    tables = (tensors.get(prefix + name) for name in _TABLES[one.part.name])
    return next((table.shape[-1] for table in tables if table is not None and table.shape), None)


def _number(part: str, folder: Path, key: str) -> int:
    """A number of a configuration."""
    return int(value_of(part, read_config(part, folder), key))
