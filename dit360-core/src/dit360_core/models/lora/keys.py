"""What the end of a tensor's name in a LoRA file says: which factor it is, or that it is another kind of adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

DOWN, UP, DOWN_BIAS, UP_BIAS = "down", "up", "down_bias", "bias"
ALPHA, DIFF, DIFF_BIAS, NEW_WEIGHT, NEW_BIAS = "alpha", "diff", "diff_b", "new_weight", "new_bias"


@attrs.frozen(kw_only=True)
class Key:
    """A tensor's name taken apart.

    stem: of the layer, with its prefix.
    adapter: the name that PEFT gave it, or "".
    """

    stem: str
    kind: str
    adapter: str = ""


_FACTOR = re.compile(
    r"(?P<stem>.+?)(?:\.lora_(?P<ab>[AB])|(?:\.lora_|\.lora\.|[._]lora_linear_layer\.|\.)(?P<way>down|up))"
    # No adapter's name begins so: the layer before it is one that is called down or up, as in some families.
    r"(?:\.(?P<adapter>(?!weight$|bias$|lora_)[^.]+)(?=\.))?(?:\.(?P<leaf>weight|bias))?"
)
_ENDINGS = {
    ".alpha": ALPHA, ".lora_alpha": ALPHA, ".network_alpha": ALPHA, ".diff": DIFF, ".w_norm": DIFF,
    ".diff_b": DIFF_BIAS, ".b_norm": DIFF_BIAS, ".set_weight": NEW_WEIGHT, ".scale": NEW_WEIGHT,
    ".weight": NEW_WEIGHT, ".bias": NEW_BIAS,
}  # fmt: skip
_SAVED = re.compile(r"\.modules_to_save(?:\.(?!weight$|bias$)[^.]+)?(?=\.(?:weight|bias)$)")


def parse(key: str) -> Key | None:
    """None for a name that ends in nothing known."""
    if match := _FACTOR.fullmatch(key):
        way = {"A": "down", "B": "up"}.get(match["ab"] or "", match["way"])
        bias = match["leaf"] == "bias"
        kind = (DOWN_BIAS if bias else DOWN) if way == "down" else (UP_BIAS if bias else UP)
        return Key(stem=match["stem"], kind=kind, adapter=match["adapter"] or "")
    key = _SAVED.sub("", key).replace(".base_layer.", ".")
    for ending, kind in _ENDINGS.items():
        if key.endswith(ending):
            # ComfyUI names the tensor, weight or scale, and then what is done to it.
            stem = re.sub(r"\.(weight|bias|scale)$", "", key.removesuffix(ending))
            if kind == DIFF and key.removesuffix(ending).endswith(".bias"):
                kind = DIFF_BIAS
            if kind == ALPHA:  # which some write beside the factors, and others beside the layer
                stem = re.sub(r"(\.lora|[._]lora_linear_layer)$", "", stem)
            return Key(stem=stem, kind=kind)
    return None


# ------------------------------------------------------------------------------------------------------ other kinds

_OTHERS = (
    (r"\.lokr_(w1|w2|t2)(_[ab])?(\.|$)", "a LoKr (LyCORIS)"),
    (r"\.hada_(w1|w2|t1|t2)(_[ab])?(\.|$)", "a LoHa (LyCORIS)"),
    (r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$", "a GLoRA"),
    (r"\.oft_(blocks|diag)$|\.oft_[rRsS](\.|$)", "an OFT"),
    (r"\.boft_[a-zA-Z]+(\.|$)", "a BOFT"),
    (r"\.on_input$|\.ia3_l(\.|$)", "an IA3"),
    (r"\.vera_lambda_[bd](\.|$)|^(base_model\.)?vera_[AB](\.|$)", "a VeRA"),
    (r"\.lora_E(\.|$)", "an AdaLoRA"),
    (r"\.fourierft_spectrum(\.|$)", "a FourierFT"),
    (r"\.hra_u(\.|$)", "an HRA"),
    # AI Toolkit writes a layer's magnitude alone.
    (r"\.dora_scale$|\.lora_magnitude_vector(\.|$)|\.dora_magnitude|\.magnitude$", "a DoRA"),
    (r"\.lora_mid(\.|$)", "a LoCon of convolutions (lora_mid), which these models have none of"),
)
"""Pattern of a tensor's name → what kind of adapter has such tensors."""


def is_of_a_transformer(key: str) -> bool:
    """Whether a name says that it is of what paints, and of no text encoder, in whatever family of models."""
    return re.match(r"(lora_|lycoris_)?(unet|transformer)[._]|(model\.)?diffusion_model\.", key) is not None


def other_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """(What kind of adapter it is that dit360 cannot read, the first tensor that says so), or None."""
    for key in keys:
        for pattern, what in _OTHERS:
            if re.search(pattern, key):
                return what, key
    return None
