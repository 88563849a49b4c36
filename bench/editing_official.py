"""The official editing script, run on the embedded model as its ``editing.py`` runs it on FLUX.1-dev."""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from dit360_core.models.weights.quiet import quiet
from dit360_core.pipeline.planes import pixels_of
from dit360_core.plugins import EMBEDDED_MODEL
from PIL import Image, ImageChops

if TYPE_CHECKING:
    from editing import Task

STEPS, TAU = 50, 50
"""As in the script: ``timestep`` and ``tau``."""


class Official:
    """Its pipeline with the embedded model's parts, in float32."""

    def __init__(self, checkout: Path) -> None:
        """checkout: of https://github.com/Insta360-Research-Team/DiT360."""
        sys.path.insert(0, str(checkout))
        sys.modules.setdefault("cv2", types.ModuleType("cv2"))  # which it imports and uses nowhere
        with quiet():
            from diffusers import FluxPipeline

            pipeline = importlib.import_module("pa_src.pipeline").RFPanoInversionParallelFluxPipeline
            parts = FluxPipeline.from_pretrained(EMBEDDED_MODEL, torch_dtype=torch.float32).components
            names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
            self._pipe = pipeline(**{name: parts[name] for name in names})
        self._pipe.set_progress_bar_config(disable=True)
        self._processors = importlib.import_module("pa_src.attn_processor")
        self._own = dict(self._pipe.transformer.attn_processors)
        self._create_mask = importlib.import_module("pa_src.utils").create_mask

    def edit(self, edit: Task) -> tuple[torch.Tensor, Image.Image]:
        """An edit's pixels, and the mask as it was used: in tokens of 16 pixels."""
        width, height = edit.panorama.size
        columns, rows = width // 16, height // 16
        with tempfile.TemporaryDirectory() as folder:
            ImageChops.invert(edit.mask).save(Path(folder) / "mask.png")  # white is kept there
            mask = self._create_mask(str(Path(folder) / "mask.png"), columns, rows).float()
        padded = torch.cat([mask[:, 0:1], mask, mask[:, -1:]], dim=-1).view(-1, 1)
        pipe, size = self._pipe, {"height": height, "width": width}
        pipe.transformer.set_attn_processor(dict(self._own))
        torch.manual_seed(edit.seed)
        with quiet():
            inverted, latents, ids = pipe.invert(
                source_prompt="", image=edit.panorama, num_inversion_steps=STEPS, gamma=1.0, **size
            )

            def processor(name: str, *_: Any) -> Any:
                return self._processors.PersonalizeAnythingAttnProcessor(
                    name=name, tau=TAU / 100, mask=padded, device="cpu", img_dims=rows * (columns + 2)
                )

            self._processors.set_flux_transformer_attn_processor(pipe.transformer, set_attn_proc_func=processor)
            made = pipe(
                [edit.prompt, edit.prompt],
                inverted_latents=inverted,
                image_latents=latents,
                latent_image_ids=ids,
                start_timestep=0.0,
                stop_timestep=0.99,
                num_inference_steps=STEPS,
                eta=1.0,
                generator=torch.Generator().manual_seed(edit.seed),
                mask=padded,
                use_timestep=True,
                **size,
            ).images[1]
        used = Image.fromarray(((1 - mask) * 255).to(torch.uint8).numpy())
        return pixels_of(made), used.resize((width, height), Image.Resampling.NEAREST)
