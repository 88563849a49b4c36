"""What the core itself offers, through the same hooks as any plugin."""

from dit360_core.plugins.builtin import architectures, attention, formats, models, quantization, scheduler, tiling

PLUGINS = (attention, quantization, scheduler, tiling, architectures, formats, models)
