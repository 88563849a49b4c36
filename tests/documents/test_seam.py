"""What is FLUX.1's is known in models/flux alone, and what is another family's in its distribution: nothing in the core
knows its name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "dit360-core" / "src" / "dit360_core"
COMFY = ROOT / "dit360-comfy" / "src" / "dit360_comfy"

OF_FLUX = re.compile(
    r"\bt5\b|\bT5\b|text_encoder_2|tokenizer_2|\bCLIP\b|single_transformer_blocks|joint_attention_dim"
    r"|pooled_projection|guidance_embeds|in_channels|Flux(Transformer|Pipeline|Engine)|\b57\b|\b24, 128\b|24×128"
    r"|TEXT_TOKENS|\b512 tokens"
)
"""Names of its parts, keys of their configurations, and its sizes."""

THE_OPTION = re.compile(
    r'^    t5: str \| None = option\(|^        help="((T5|CLIP) text encoder instead of|What is quantized: )'
    r'|^QUANTIZED|^REPLACING = |^    "evict": '
)
"""``--t5`` is a word of the users', which ``Architecture.replaceable`` and ``Part.option`` give a meaning."""


def lines(folder):
    for path in sorted(folder.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield path.relative_to(folder).as_posix(), number, line


def test_the_pattern_finds_what_is_in_the_folder_of_flux():
    found = {OF_FLUX.search(line)[0] for _, _, line in lines(CORE / "models" / "flux") if OF_FLUX.search(line)}
    assert {"T5", "text_encoder_2", "CLIP", "in_channels", "joint_attention_dim", "57"} <= found


def test_the_core_names_no_part_of_flux_outside_its_folder():
    # A convolution has in_channels in every autoencoder.
    mine = {"models/flux/", "plugins/builtin/architectures.py", "sphere/vae/"}
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, number, line in lines(CORE)
        if OF_FLUX.search(line)
        and not name.startswith(tuple(mine))
        and not (name.startswith("options/") and THE_OPTION.match(line))
    ]
    assert found == []


OF_OTHERS = re.compile(r"klein|qwen|krea|flux.?2|mistral", re.IGNORECASE)


def test_the_core_names_no_family_of_another_distribution():
    # Classes of diffusers that the core's own rooms take apart, and what is said of the core's own family.
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, number, line in lines(CORE)
        if OF_OTHERS.search(line)
        and not name.startswith(("sphere/vae/", "models/flux/"))
        and "AutoencoderKL" not in line
        and "Krea-dev" not in line
    ]
    assert found == []


def test_the_nodes_name_no_part_of_flux_outside_the_native_ones():
    # The loader has an input for each option that takes a file, and its drop-down is ComfyUI's.
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, number, line in lines(COMFY)
        if OF_FLUX.search(line) and not name.startswith("native") and name != "nodes/loader.py"
    ]
    assert found == []
