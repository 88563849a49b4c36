"""The example workflows of the template browser."""

from __future__ import annotations

from typing import Any

from graph import Column, Of, Placed, Workflow

_PREVIEW = 360
_WHAT_IT_NEEDS = """**Needs** the weights of FLUX.1-dev and DiT360, about 34 GB: accept FLUX.1-dev's licence on Hugging
Face and run `hf auth login`; they are fetched when the workflow first runs. To try it without them, choose **tiny** as
`model_path`: an embedded model that paints small, simple pictures on any machine (the thumbnail is one)."""


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(" ".join(text.split("\n")) for text in texts)


def _pipeline(
    name: str,
    *about: str,
    prompt: str,
    loader: dict[str, Any],
    sampler: dict[str, Any] | None = None,
    needs: tuple[str, ...] = (_WHAT_IT_NEEDS,),
) -> Workflow:
    """The five nodes of every one of our own."""
    pipe = Of("loader")
    return Workflow(
        name,
        _paragraphs(f"# {name}", *about, *needs),
        (
            Column("1 · The model", 360, (Placed("loader", "DiT360Loader", {"model_path": "dit360", **loader}),)),
            Column("2 · What to paint", 400, (
                Placed("text", "DiT360TextEncode", {"dit360_pipe": pipe, "prompt": prompt}),
                Placed("sampler", "DiT360Sampler", {
                    "dit360_pipe": pipe, "conditioning": Of("text"), "seed": 7, **(sampler or {}),
                }),
            )),
            Column("3 · The panorama", 620, (
                Placed("decode", "DiT360Decode", {"samples": Of("sampler"), "dit360_pipe": pipe}),
                Placed("preview", "Equirect360Preview", {
                    "images": Of("decode"), "save": True, "format": "png",
                }, _PREVIEW),
            )),
        ),
    )  # fmt: skip


_START = _pipeline(
    "DiT360 (start here)",
    """A panorama in seconds, on any machine, without a download: the embedded model **tiny** paints it, small and
simple. Run it, then drag in the picture to look around, scroll to zoom, and press F for the full screen.""",
    """**First** write your own prompt. tiny knows seas, meadows, deserts, snow and stone plazas, with mountains, a
forest, a city or a castle on the horizon, at noon, sunset, dawn or night, and plain rooms. Then open one of the other
examples for the real model.""",
    prompt="a castle above a meadow at sunset",
    loader={"model_path": "tiny"},
    needs=(),
)
_LOW_VRAM = _pipeline(
    "DiT360 low VRAM",
    """A 2048×1024 panorama on a card of 8 GB: the preset `low-vram` lets weights wait in system memory, or stores
them in fewer bits where that is too small. The largest phase is predicted to take 5.6 GiB of the card and 31.4 GiB
of system memory; this was not measured on a GPU yet.""",
    """**First** write your own prompt. For a larger card set `vram` to its size (12, 16, 24) and `preset` to balanced,
and it is decided anew what has to wait where.""",
    prompt="a mountain lake at dawn",
    loader={"preset": "low-vram"},
)
_FAST = _pipeline(
    "DiT360 fast",
    """Few steps with a solver that needs few: `unipc` with 16 steps is as near to the exact picture as the usual
`flow_match` with 50 (measured on the embedded model). The preset `speed` takes the quickest combination of what
fits.""",
    """**First** write your own prompt. Then try `steps` 8 for a sketch, or 20, and `timestep_schedule` cosine.""",
    prompt="a calm sea under a starry night sky",
    loader={"preset": "speed"},
    sampler={"scheduler_type": "unipc", "steps": 16},
)
_QUALITY = _pipeline(
    "DiT360 quality",
    """Nothing that changes the picture to save memory or time: the preset `quality` only moves weights, and never
stores them in fewer bits. 50 steps of `flow_match`, as FLUX is published, with the model's own guidance.""",
    """**First** write your own prompt. Then compare with `steps` 28, which is what DiT360's authors use, and with
`scheduler_type` unipc at 20 steps.""",
    prompt="a castle above a meadow at sunset",
    loader={"preset": "quality"},
    sampler={"scheduler_type": "flow_match", "steps": 50},
)

PREFIX = "This is a panorama. The image shows "
_FILES = "https://huggingface.co/{}/resolve/main/{}"


def _file(folder: str, repository: str, path: str) -> dict[str, str]:
    return {"name": path.rpartition("/")[2], "url": _FILES.format(repository, path), "directory": folder}


_NATIVE = Workflow(
    "DiT360 on native FLUX",
    _paragraphs(
        "# DiT360 on native FLUX",
        """For those who have FLUX.1-dev in ComfyUI already: its own loaders and KSampler, and nodes that make a
panorama of it. fp8 files work too.""",
        """**Needs** flux1-dev, clip_l, t5xxl and ae.safetensors in their folders. DiT360's LoRA is downloaded from the
Hugging Face Hub, once.""",
        """**What is set** as DiT360 has it: noise levels for the padded width (ModelSamplingFlux, 2080×1024 for
2048×1024), 512 tokens of T5, guidance 2.8, 28 steps of euler.""",
        """**First** change what follows *The image shows*, and keep what stands before it. For another size, set it
in the latent, and in ModelSamplingFlux 32 pixels wider. (The thumbnail is by the embedded model of the other
examples.)""",
    ),
    (
        Column("1 · The model", 340, (
            Placed("unet", "UNETLoader", {"unet_name": "flux1-dev.safetensors"}, files=(
                _file("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors"),
            )),
            Placed("clip", "DualCLIPLoader", {
                "clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux",
            }, files=(
                _file("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors"),
                _file("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
            )),
            Placed("vae", "VAELoader", {"vae_name": "ae.safetensors"}, files=(
                _file("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/ae.safetensors"),
            )),
        )),
        Column("2 · Made a panorama's", 340, (
            Placed("lora", "DiT360NativeLoRA", {"model": Of("unet")}),
            Placed("levels", "ModelSamplingFlux", {"model": Of("lora"), "width": 2080, "height": 1024}),
            Placed("attention", "DiT360Attention", {"model": Of("levels")}),
            Placed("padding", "DiT360CircularPadding", {"model": Of("attention")}),
        )),
        Column("3 · What to paint", 380, (
            Placed("tokens", "T5TokenizerOptions", {"clip": Of("clip"), "min_length": 512}),
            Placed("text", "CLIPTextEncode", {
                "clip": Of("tokens"), "text": f"{PREFIX}a city at the edge of a desert at night",
            }),
            Placed("guidance", "FluxGuidance", {"conditioning": Of("text"), "guidance": 2.8}),
            Placed("negative", "ConditioningZeroOut", {"conditioning": Of("text")}),
            Placed("latent", "EmptySD3LatentImage", {"width": 2048, "height": 1024}),
            Placed("sampler", "KSampler", {
                "model": Of("padding"), "positive": Of("guidance"), "negative": Of("negative"),
                "latent_image": Of("latent"), "seed": 7, "steps": 28, "cfg": 1.0, "sampler_name": "euler",
                "scheduler": "simple",
            }),
        )),
        Column("4 · The panorama", 620, (
            Placed("decode", "DiT360VAEDecode", {"samples": Of("sampler"), "vae": Of("vae")}),
            Placed("preview", "Equirect360Preview", {"images": Of("decode"), "save": True, "format": "png"}, _PREVIEW),
        )),
    ),
)  # fmt: skip

_PIPE = Of("loader")
_SIZE_AND_SPEED = """To paint with the real model, choose **dit360** as `model_path`: its weights, about 34 GB, are
fetched when the workflow first runs, after you have accepted FLUX.1-dev's licence on Hugging Face and run `hf auth
login`. Sizes follow."""
_MODEL = Column("1 · The model", 360, (Placed("loader", "DiT360Loader", {"model_path": "tiny"}),))


def _painted(prompt: str) -> tuple[Placed, ...]:
    """A panorama that stands for a picture of the user's own."""
    return (
        Placed("own text", "DiT360TextEncode", {"dit360_pipe": _PIPE, "prompt": prompt}),
        Placed("own latents", "DiT360Sampler", {
            "dit360_pipe": _PIPE, "conditioning": Of("own text"), "seed": 7,
        }),
        Placed("own", "DiT360Decode", {"samples": Of("own latents"), "dit360_pipe": _PIPE}),
    )  # fmt: skip


def _finished(image: Of, mask: Of, prompt: str) -> tuple[Column, Column]:
    """What the mask covers is made anew, and the rest gets its own pixels again."""
    return (
        Column("4 · The rest", 400, (
            Placed("text", "DiT360TextEncode", {"dit360_pipe": _PIPE, "prompt": prompt}),
            Placed("inpaint", "DiT360Inpaint", {
                "dit360_pipe": _PIPE, "conditioning": Of("text"), "image": image, "mask": mask, "seed": 4,
            }),
        )),
        Column("5 · The panorama", 620, (
            Placed("decode", "DiT360Decode", {"samples": Of("inpaint"), "dit360_pipe": _PIPE}),
            Placed("paste", "DiT360PasteBack", {
                "image": Of("decode"), "original": image, "mask": Of("inpaint", 1),
            }),
            Placed("preview", "Equirect360Preview", {"images": Of("paste"), "save": True, "format": "png"}, _PREVIEW),
        )),
    )  # fmt: skip


_PHOTO = Workflow(
    "Photo to panorama",
    _paragraphs(
        "# Photo to panorama",
        """A photo becomes a panorama: it lies where the camera looked, keeps its own pixels, and the rest is made
around it. The example runs at once, on any machine: the embedded model **tiny** paints the "photo" too.""",
        """**First** put your own photo there: delete what is in *2 · Your photo*, and connect a *Load Image* to
DiT360 Photo to Panorama. Set its `fov` (about 65 for most phones, over the longer side) and level the horizon by
`pitch` and `roll`. Then say in the prompt what the whole panorama shows.""",
        """**A second photo** joins by another DiT360 Photo to Panorama: connect both outputs of the first to its
`panorama` and `mask`.""",
        _SIZE_AND_SPEED,
    ),
    (
        _MODEL,
        Column("2 · Your photo", 400, (
            *_painted("a castle above a meadow at sunset"),
            Placed("photo", "DiT360PanoramaToView", {
                "panorama": Of("own"), "fov": 80.0, "pitch": 10.0, "width": 384, "height": 288,
            }),
        )),
        Column("3 · Where it lies", 360, (
            Placed("placed", "DiT360PhotoToPanorama", {
                "image": Of("photo"), "dit360_pipe": _PIPE, "fov": 80.0, "pitch": 10.0,
            }),
        )),
        *_finished(Of("placed"), Of("placed", 1), "a castle above a meadow at sunset"),
    ),
)  # fmt: skip
_REMOVE = Workflow(
    "Remove an object",
    _paragraphs(
        "# Remove an object",
        """What a mask covers of a panorama is made anew, and everything else stays, pixel by pixel: here a castle
goes. The example runs at once, on any machine: the embedded model **tiny** paints the panorama too.""",
        """**First** put your own panorama there: delete what is in *2 · Your panorama* and connect a *Load Image*
to its three ends. Then aim DiT360 Region Mask at the object by `yaw`, `pitch` and `fov`, or paint over it in
Preview 360° Panorama and take the mask from there. Mask its shadow too, and say in the prompt what is to be there
instead.""",
        _SIZE_AND_SPEED,
    ),
    (
        _MODEL,
        Column("2 · Your panorama", 400, _painted("a castle above a meadow at sunset")),
        Column("3 · What is to go", 360, (
            Placed("region", "DiT360RegionMask", {
                "image": Of("own"), "yaw": -14.0, "pitch": 18.0, "fov": 84.0,
            }),
        )),
        *_finished(Of("own"), Of("region"), "a meadow at sunset"),
    ),
)  # fmt: skip

EXAMPLES = (_START, _LOW_VRAM, _FAST, _QUALITY, _NATIVE, _PHOTO, _REMOVE)
