"""What there is to compute on, found by the driver's own word and without importing PyTorch, which takes seconds."""
