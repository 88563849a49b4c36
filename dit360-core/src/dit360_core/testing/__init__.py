"""What a plugin's own tests inherit to show that its backend keeps the contract."""

from dit360_core.testing.attention import AttentionConformance
from dit360_core.testing.quantization import QuantizerConformance
from dit360_core.testing.scheduling import SchedulerConformance
from dit360_core.testing.tiling import TilingConformance

__all__ = ["AttentionConformance", "QuantizerConformance", "SchedulerConformance", "TilingConformance"]
