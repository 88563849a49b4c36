"""Where a model's parts rest while they are not at work: offloaded, evicted, brought back."""
