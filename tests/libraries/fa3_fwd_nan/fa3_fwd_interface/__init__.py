"""Returns the log-sum-exp too, as old releases do, and a result that is no number."""


def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
    return q * float("nan"), q[..., 0]
