"""A folder of FLUX.1, as diffusers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dit360_core.models.flux.parts import PARTS, PIPELINES
from dit360_core.models.flux.schemas import IMPOSSIBLE, SCHEMAS, check_together
from dit360_core.models.folder import ModelFolder, PartKind
from dit360_core.models.tokenizers import TokenizerKind, longest_prompt
from dit360_core.plugins import EMBEDDED_MODEL

TITLE = "FLUX"
WEIGHTS = tuple(part.name for part in PARTS)
_CLASSES = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
}
"""Part → what it is in a FLUX model. Of a scheduler only the time shift is asked, whichever it is."""
_TYPES = {"text_encoder": ("clip_text_model",), "text_encoder_2": ("t5",)}
"""model_type of what transformers wrote."""

CLIP_TOKENIZER = TokenizerKind(
    title=TITLE, classes=("CLIPTokenizer", "CLIPTokenizerFast"), own=(Path(EMBEDDED_MODEL) / "tokenizer",)
)
T5_TOKENIZER = TokenizerKind(
    title=TITLE,
    classes=("T5Tokenizer", "T5TokenizerFast"),
    vocabularies=("tokenizer.json", "spiece.model"),
    model="Unigram",
    own=(Path(EMBEDDED_MODEL) / "tokenizer_2",),
)
TOKENIZERS = {"tokenizer": CLIP_TOKENIZER, "tokenizer_2": T5_TOKENIZER}

FLUX_FOLDER = ModelFolder(
    title=TITLE,
    pipelines=PIPELINES,
    parts=PARTS,
    kinds={
        part: PartKind(
            classes=_CLASSES.get(part, ()),
            types=_TYPES.get(part, ()),
            schema=schema,
            odd=IMPOSSIBLE.get(part, lambda config: None),
        )
        for part, schema in SCHEMAS.items()
    },
    tokenizers=TOKENIZERS,
    together=check_together,
    neighbours={
        "FluxControlPipeline": "follows a control picture (Depth, Canny)",
        "FluxControlImg2ImgPipeline": "follows a control picture (Depth, Canny)",
        "FluxControlInpaintPipeline": "follows a control picture (Depth, Canny)",
    },
)
FOLDERS = FLUX_FOLDER.names


def read_config(part: str, folder: Path) -> dict[str, Any]:
    """As :meth:`ModelFolder.read_config`."""
    return FLUX_FOLDER.read_config(part, folder)


def check_weights(part: str, folder: Path) -> None:
    """As :meth:`ModelFolder.check_weights`."""
    FLUX_FOLDER.check_weights(part, folder)


def prompt_tokens(folder: Path, most: int) -> int:
    """Tokens that T5's tokenizer in a model's folder says a prompt has, at most so many."""
    return longest_prompt(T5_TOKENIZER, folder / "tokenizer_2", most)
