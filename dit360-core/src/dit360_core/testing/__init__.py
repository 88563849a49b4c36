"""What a plugin's own tests inherit to show that its backend keeps the contract."""

from dit360_core.testing.architecture import ArchitectureConformance
from dit360_core.testing.attention import AttentionConformance
from dit360_core.testing.formats import FormatConformance
from dit360_core.testing.known_models import ModelConformance
from dit360_core.testing.offering import OfferConformance
from dit360_core.testing.quantization import QuantizerConformance
from dit360_core.testing.scheduling import SchedulerConformance
from dit360_core.testing.tiling import TilingConformance

__all__ = [
    "ArchitectureConformance",
    "AttentionConformance",
    "FormatConformance",
    "ModelConformance",
    "OfferConformance",
    "QuantizerConformance",
    "SchedulerConformance",
    "TilingConformance",
]
