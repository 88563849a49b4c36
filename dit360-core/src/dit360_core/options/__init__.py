"""What may be asked: the option classes that Python, the command line and ComfyUI make their inputs from."""

from dit360_core.options.budgets import budget_of
from dit360_core.options.building import build, build_own, changed_options, nearest, own_options
from dit360_core.options.checking import decimal_hint
from dit360_core.options.choices import (
    CIRCULAR_MODES,
    DEVICES,
    EVICTIONS,
    FAITHFULNESS,
    LORA_MODES,
    MASK_MEANINGS,
    OFFLOADS,
    PRECISIONS,
    PRESETS,
    QUANTIZED,
    QUANTIZED_MEANS,
    REFERENCES,
    TILING_LEVELS,
    TILING_MODES,
    TIMESTEP_SCHEDULES,
)
from dit360_core.options.declaring import flag, option
from dit360_core.options.decode import DecodeOptions
from dit360_core.options.edit import EditOptions, PhotoOptions, region_of
from dit360_core.options.facts import Option, options_of
from dit360_core.options.larger import LargerOptions
from dit360_core.options.load import LARGEST_STRENGTH, QUANTIZE_OPTIONS, REPLACING, LoadOptions
from dit360_core.options.of_a_picture import OF_A_LINE, OF_A_PICTURE, check_of_a_picture
from dit360_core.options.sample import ENCODED, MAX_SEED, SampleOptions
from dit360_core.options.sizes import SIZE_STEP, check_size

__all__ = [
    "CIRCULAR_MODES",
    "DEVICES",
    "ENCODED",
    "EVICTIONS",
    "FAITHFULNESS",
    "LARGEST_STRENGTH",
    "LORA_MODES",
    "MASK_MEANINGS",
    "MAX_SEED",
    "OFFLOADS",
    "OF_A_LINE",
    "OF_A_PICTURE",
    "PRECISIONS",
    "PRESETS",
    "QUANTIZED",
    "QUANTIZED_MEANS",
    "QUANTIZE_OPTIONS",
    "REFERENCES",
    "REPLACING",
    "SIZE_STEP",
    "TILING_LEVELS",
    "TILING_MODES",
    "TIMESTEP_SCHEDULES",
    "DecodeOptions",
    "EditOptions",
    "LargerOptions",
    "LoadOptions",
    "Option",
    "PhotoOptions",
    "SampleOptions",
    "budget_of",
    "build",
    "build_own",
    "changed_options",
    "check_of_a_picture",
    "check_size",
    "decimal_hint",
    "flag",
    "nearest",
    "option",
    "options_of",
    "own_options",
    "region_of",
]
