"""What ComfyUI imports: this folder is linked into its ``custom_nodes`` by ``dit360-comfy install``."""

from pathlib import Path

from dit360_comfy import replacements, templates
from dit360_comfy.host import register_folders
from dit360_comfy.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

register_folders()
replacements.register()
templates.register(Path(__file__).parent.name)

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
