"""dit360 in ComfyUI: nodes made from the core's options, and a command that puts them there."""
