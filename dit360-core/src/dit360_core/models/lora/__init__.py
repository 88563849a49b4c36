"""LoRAs: read from their files, fitted to a model, fused into its weights or computed beside them."""
