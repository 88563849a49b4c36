"""Models: their files, weights, LoRAs and sizes, where their parts rest, and FLUX.1."""
