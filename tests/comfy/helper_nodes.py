"""Nodes for tests: ComfyUI's own autoencoder with the weights of a small model, and a tensor's numbers in a file."""

from pathlib import Path


class SmallVAE:
    """A VAE of ComfyUI itself, with the weights of a diffusers folder's."""

    RETURN_TYPES = ("VAE",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"folder": ("STRING",)}}

    def load(self, folder):
        import json

        import comfy.diffusers_convert
        import comfy.model_patcher
        import comfy.sd
        import comfy.utils
        import torch
        from comfy.ldm.models.autoencoder import AutoencodingEngine

        folder = Path(folder) / "vae"
        config = json.loads((folder / "config.json").read_text())
        widths = config["block_out_channels"]
        described = {
            "double_z": True, "z_channels": config["latent_channels"], "resolution": 256, "in_channels": 3, "out_ch": 3,
            "ch": widths[0], "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"], "attn_resolutions": [], "dropout": 0.0,
        }  # fmt: skip
        weights = comfy.utils.load_torch_file(str(next(folder.glob("*.safetensors"))))
        converted = comfy.diffusers_convert.convert_vae_state_dict(weights)
        vae = comfy.sd.VAE(
            sd=dict(converted), config={"params": {"ddconfig": described, "embed_dim": 16}}, dtype=torch.float32
        )
        # FLUX's has no convolutions around the latents, which ComfyUI makes by another class.
        parts = "comfy.ldm.modules.diffusionmodules.model."
        vae.first_stage_model = AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": parts + "Encoder", "params": described},
            decoder_config={"target": parts + "Decoder", "params": described},
        ).eval()
        vae.first_stage_model.load_state_dict(converted, strict=True)
        vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, torch.device("cpu"))
        return (vae,)


class SaveNumbers:
    """Writes an IMAGE's numbers into a file of NumPy."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"images": ("IMAGE",), "path": ("STRING",)}}

    def save(self, images, path):
        import numpy as np

        np.save(path, images.cpu().numpy())
        return {}


NODE_CLASS_MAPPINGS = {"SmallVAE": SmallVAE, "SaveNumbers": SaveNumbers}
