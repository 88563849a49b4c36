"""Ignores the scale that it is given."""

import torch


def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2), None
