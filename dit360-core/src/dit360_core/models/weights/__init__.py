"""Weights in files: fetched, looked at, read one by one, quantized, and stored."""
