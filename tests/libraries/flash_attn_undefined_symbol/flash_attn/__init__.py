"""What a wheel built for another PyTorch is like: its extension needs symbols that are not there."""

from flash_attn import flash_attn_2_cuda

flash_attn_func = flash_attn_2_cuda.fwd
